"""The page in the browser: drop a photo, drag a head, see the views."""
