"""What happens around training: averaging, pictures, exports, evaluation."""
