"""The Triton backend."""


def reasons(device, dtype):
    return ["not written yet"]
