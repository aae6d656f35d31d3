"""Random people: everything that stays the same between frames, drawn from one random stream."""

from dataclasses import asdict, dataclass

import numpy as np

from generators.parametric.anatomy import Shape, anatomy
from generators.parametric.appearance import HAIR_TONES, IRIS_TONES, SKIN_TONES, Appearance
from generators.parametric.hair import HairStyle


@dataclass(frozen=True)
class Person:
    """An identity: shape, appearance, hair and clothing at the neck (linear RGB)."""

    shape: Shape
    look: Appearance
    hair: HairStyle
    cloth: tuple[float, float, float]
    neckline: float  # height of the neckline relative to the eyes, metres on the template

    def attributes(self) -> dict[str, object]:
        """The person's attributes for metadata, as JSON values."""
        return {"phenotypes": self.shape.phenotypes, "hair": asdict(self.hair), "skin": self.look.skin}


def sample_person(rng: np.random.Generator) -> Person:
    """A random adult: any gender, young adult to old, any mixture of Anny's three ethnic phenotypes."""
    ancestry = rng.dirichlet((0.6, 0.6, 0.6))
    gender = float(np.clip(rng.beta(0.5, 0.5), 0.05, 0.95))  # Anny's scale: 0 male, 1 female
    age = float(rng.beta(1.3, 1.6))  # 0 young adult, 1 old
    shape = _shape(rng, ancestry, gender, age)
    grey = rng.random() < max(0.0, age - 0.45) * 1.7
    tone = _hair_tone(rng, ancestry, grey)
    look = _appearance(rng, ancestry, gender, age, tone)
    cloth = tuple(np.clip(rng.choice([0.03, 0.12, 0.35, 0.7]) * (1 + rng.uniform(-0.5, 0.5, 3)), 0.01, 0.85))
    return Person(shape, look, _hair(rng, gender, age), cloth, float(rng.uniform(-0.165, -0.115)))


def _shape(rng: np.random.Generator, ancestry: np.ndarray, gender: float, age: float) -> Shape:
    phenotypes = {name: float(rng.uniform(0.2, 0.8)) for name in anatomy().model.phenotype_labels}
    phenotypes |= {
        "gender": gender,
        "age": 0.62 + 0.36 * age,  # Anny's scale: about 2/3 is a young adult, 1 is old
        "weight": float(np.clip(rng.normal(0.5, 0.2), 0.05, 0.95)),
        "african": float(ancestry[0]),
        "asian": float(ancestry[1]),
        "caucasian": float(ancestry[2]),
    }
    changes: dict[str, float] = {}
    for name in anatomy().head_changes:
        if name.startswith("r-"):
            continue
        amount = float(np.clip(rng.normal(0, 0.28), -0.85, 0.85))
        if name.endswith("trans-out") and not name.startswith("l-"):
            amount *= 0.15  # moves the whole part sideways: faces are only slightly asymmetric
        changes[name] = amount
        if name.startswith("l-"):
            changes["r-" + name[2:]] = float(np.clip(amount + rng.normal(0, 0.04), -1, 1))
    return Shape(phenotypes, changes)


def _hair_tone(rng: np.random.Generator, ancestry: np.ndarray, grey: bool) -> tuple[float, float, float]:
    if grey:
        name = rng.choice(["grey", "white"], p=[0.7, 0.3])
    else:
        fair = ancestry[2]
        chances = np.array([0.55, 0.45, 0.5 * fair, 0.18 * fair, 0.45 * fair])
        name = rng.choice(["black", "dark brown", "brown", "auburn", "blond"], p=chances / chances.sum())
    return tuple(np.array(HAIR_TONES[name]) * rng.uniform(0.75, 1.3))


def _appearance(
    rng: np.random.Generator,
    ancestry: np.ndarray,
    gender: float,
    age: float,
    hair: tuple[float, float, float],
) -> Appearance:
    melanin = float(np.clip(ancestry @ (4.1, 1.3, 0.5) + rng.normal(0, 0.45), 0, 5))
    skin = np.array([np.interp(melanin, np.arange(6), SKIN_TONES[:, i]) for i in range(3)])
    skin = skin * (1 + rng.normal(0, 0.05) * np.array([-0.5, 0.3, 1.0]))
    makeup = float(rng.beta(1, 2)) if gender > 0.5 else 0.0
    natural_lips = skin * np.array([0.92, 0.62, 0.66])
    painted = np.array([rng.uniform(0.3, 0.55), rng.uniform(0.04, 0.14), rng.uniform(0.06, 0.16)])
    dark_eyes = rng.random() > ancestry[2] * 0.75
    iris = (
        rng.choice(["brown", "dark brown"]) if dark_eyes else rng.choice(["hazel", "green", "blue", "grey"])
    )
    return Appearance(
        skin=tuple(skin),
        lips=tuple(natural_lips + (painted - natural_lips) * 0.7 * makeup),
        hair=hair,
        brow_thickness=float(rng.uniform(0.0026, 0.0044) * (1.15 - 0.35 * gender)),
        brow_height=float(rng.uniform(0.0165, 0.0195)),
        brow_arch=float(rng.uniform(0.3, 1.0)),
        brow_strength=float(rng.uniform(0.6, 0.95)),
        iris=tuple(np.array(IRIS_TONES[iris]) * rng.uniform(0.7, 1.3)),
        freckles=float(rng.beta(1, 3)) * (melanin < 2),
        redness=float(rng.uniform(0.1, 1.0)) * (1 - 0.12 * melanin),
        stubble=float(rng.beta(1, 1.5)) if gender < 0.5 else 0.0,
        wrinkles=float(np.clip(age * rng.uniform(0.6, 1.1), 0, 1)),
        makeup=makeup,
        seed=int(rng.integers(2**31)),
    )


def _hair(rng: np.random.Generator, gender: float, age: float) -> HairStyle:
    male = gender < 0.5
    kind = rng.choice(
        ["bald", "cropped", "short", "medium", "long"],
        p=[0.09, 0.25, 0.41, 0.17, 0.08] if male else [0.01, 0.06, 0.19, 0.34, 0.40],
    )
    length = {"bald": 0.0, "cropped": 0.014, "short": 0.045, "medium": 0.11, "long": 0.24}[kind]
    beard = float(rng.choice([0.0, 0.006, 0.014, 0.035], p=[0.62, 0.14, 0.16, 0.08])) if male else 0.0
    return HairStyle(
        length=length * rng.uniform(0.75, 1.3),
        sides=float(rng.uniform(0.25, 0.8)) if kind == "short" else float(rng.uniform(0.85, 1.0)),
        lift=float(rng.uniform(0.0, 1.0)) * {"cropped": 0.3}.get(kind, 1.0),
        curl=float(rng.choice([0.0, rng.uniform(0.2, 0.7), rng.uniform(0.9, 1.8)], p=[0.45, 0.35, 0.2])),
        parting=float(rng.choice([0.0, 0.03, -0.03]) + rng.normal(0, 0.006)),
        fringe=float(rng.choice([rng.uniform(0, 0.3), rng.uniform(0.4, 0.8)], p=[0.7, 0.3])),
        density=0.0 if kind == "bald" else float(rng.uniform(0.7, 1.0)),
        receding=float(max(0.0, rng.normal(0.004, 0.008) + (0.016 * age if male else 0))),
        beard=beard,
    )
