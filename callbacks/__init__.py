"""Lightning callbacks: weight averaging, pictures, exports, evaluation; and the dashboard of a run."""
