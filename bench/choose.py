"""Which of a table's contenders run: by group, or by the beginning of a name."""


def choose(rows: list, wanted: list[str] | None, without: list[str] | None = None, where: str = "") -> list:
    """The rows that are `wanted`, all if None, less those named in `without`; SystemExit for a word that fits none."""

    def fits(row, word: str) -> bool:
        return row.group == word or row.name.startswith(word)

    words = [*(wanted or ()), *(without or ())]
    if unknown := [word for word in words if not any(fits(row, word) for row in rows)]:
        groups = ", ".join(sorted({row.group for row in rows}))
        raise SystemExit(f"no contender {', '.join(map(repr, unknown))}{where}; groups: {groups}")
    kept = [row for row in rows if not wanted or any(fits(row, word) for word in wanted)]
    return [row for row in kept if not any(fits(row, word) for word in without or ())]
