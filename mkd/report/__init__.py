"""One self-contained HTML page about runs, their results and a predicted map."""
