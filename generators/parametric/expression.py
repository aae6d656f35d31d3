"""Expressions: plausible combinations of the 52 facial actions, with gaze."""

import numpy as np

# Expressions as coefficients of actions at full strength; `…*` stands for Left and Right.
EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "slight smile": {"mouthSmile*": 0.45, "cheekSquint*": 0.15},
    "smile": {"mouthSmile*": 0.9, "cheekSquint*": 0.5, "eyeSquint*": 0.3, "mouthDimple*": 0.2},
    "laugh": {
        "mouthSmile*": 0.9,
        "jawOpen": 0.40,
        "cheekSquint*": 0.7,
        "eyeSquint*": 0.4,
        "mouthUpperUp*": 0.3,
    },
    "surprise": {"browInnerUp": 0.9, "browOuterUp*": 0.8, "eyeWide*": 0.8, "jawOpen": 0.45},
    "interest": {"browInnerUp": 0.5, "browOuterUp*": 0.4, "eyeWide*": 0.3},
    "anger": {"browDown*": 0.9, "noseSneer*": 0.35, "mouthPress*": 0.5, "eyeSquint*": 0.4},
    "sadness": {"browInnerUp": 0.8, "mouthFrown*": 0.7, "mouthShrugLower": 0.4},
    "disgust": {"noseSneer*": 0.9, "mouthUpperUp*": 0.6, "browDown*": 0.4, "mouthFrown*": 0.3},
    "fear": {"browInnerUp": 0.9, "eyeWide*": 0.7, "mouthStretch*": 0.6, "jawOpen": 0.15},
    "doubt": {"browDownLeft": 0.6, "browOuterUpRight": 0.8, "mouthPressRight": 0.4},
    "pucker": {"mouthPucker": 0.9, "mouthFunnel": 0.15},
    "vowel a": {"jawOpen": 0.55, "mouthLowerDown*": 0.3},
    "vowel o": {"jawOpen": 0.35, "mouthFunnel": 0.7},
    "vowel e": {"jawOpen": 0.15, "mouthStretch*": 0.5, "mouthSmile*": 0.2},
    "consonant m": {"mouthRollLower": 0.4, "mouthRollUpper": 0.4, "mouthPress*": 0.3},
    "consonant f": {"mouthRollLower": 0.6, "mouthUpperUp*": 0.25, "jawOpen": 0.08},
    "puff": {"cheekPuff": 0.9, "mouthPress*": 0.2},
    "smirk": {"mouthSmileLeft": 0.8, "cheekSquintLeft": 0.4, "mouthDimpleLeft": 0.3},
    "blink": {"eyeBlink*": 0.95},
    "tired": {"eyeBlink*": 0.45, "mouthFrown*": 0.15},
}
WEIGHTS = {"neutral": 4.0, "slight smile": 3.0, "smile": 3.0, "laugh": 2.0, "blink": 0.5, "tired": 0.5}


def sample_expression(rng: np.random.Generator) -> tuple[str, dict[str, float]]:
    """Draw a named expression: with random strength, slight asymmetry, a small share of a second one, and a
    gaze."""
    names = list(EXPRESSIONS)
    chances = np.array([WEIGHTS.get(name, 1.0) for name in names])
    name, second = rng.choice(names, size=2, p=chances / chances.sum())
    actions: dict[str, float] = {}
    for expression, strength in ((name, rng.uniform(0.5, 1.0)), (second, rng.uniform(0.0, 0.2))):
        for action, amount in _two_sided(EXPRESSIONS[expression]).items():
            actions[action] = actions.get(action, 0.0) + amount * strength * rng.uniform(0.85, 1.15)
    actions.update(_gaze(*np.clip(rng.normal(0, (0.35, 0.2)), -0.8, 0.8)))
    return str(name), {action: float(np.clip(amount, 0, 1)) for action, amount in actions.items()}


def _two_sided(actions: dict[str, float]) -> dict[str, float]:
    return {
        action.replace("*", side): amount
        for action, amount in actions.items()
        for side in (("Left", "Right") if "*" in action else ("",))
    }


def _gaze(across: float, up: float) -> dict[str, float]:
    """The actions that turn both eyes: `across` towards the person's left, `up` upwards, in [-1, 1]."""
    left, right = ("Out", "In") if across > 0 else ("In", "Out")
    vertical = "Up" if up > 0 else "Down"
    return {
        f"eyeLook{left}Left": abs(across),
        f"eyeLook{right}Right": abs(across),
        f"eyeLook{vertical}Left": abs(up),
        f"eyeLook{vertical}Right": abs(up),
    }
