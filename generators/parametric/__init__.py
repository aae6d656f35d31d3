"""The built-in head: Anny's parametric human, painted, given hair, lit and path-traced by Mitsuba."""
