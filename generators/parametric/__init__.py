"""The built-in people: Anny's parametric human with painted textures and hair, rendered by Mitsuba."""
