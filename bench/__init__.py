"""bench: what is measured, against whom, and the results as JSON. Start with `python -m bench layer`."""
