"""The publication to cite for each task of this package: of its data, or of its equations."""

from __future__ import annotations

from ode_core.citation import Reference

_DYNAMICS = Reference(
    "Strogatz, Steven H.",
    2018,
    "Nonlinear Dynamics and Chaos: With Applications to Physics, Biology, Chemistry, and "
    "Engineering",
    "CRC Press, 2nd edition",
    doi="10.1201/9780429492563",
)
_NEURAL_ODE = Reference(
    "Chen, Ricky T. Q. and Rubanova, Yulia and Bettencourt, Jesse and Duvenaud, David",
    2018,
    "Neural ordinary differential equations",
    "Advances in Neural Information Processing Systems 31",
    arxiv="1806.07366",
)

TASKS = {
    "cifar10": Reference(
        "Krizhevsky, Alex",
        2009,
        "Learning multiple layers of features from tiny images",
        "Technical report, University of Toronto",
    ),
    "digits": Reference(
        "Alpaydin, Ethem and Kaynak, Cenk",
        1998,
        "Optical recognition of handwritten digits",
        "UCI Machine Learning Repository",
        doi="10.24432/C50P49",
    ),
    # The embedded patients; data of one's own have a source of their own.
    "glucose": Reference(
        "Hovorka, Roman and Canonico, Valentina and Chassin, Ludovic J. and Haueter, Ulrich and "
        "Massi-Benedetti, Massimo and Orsini Federici, Marco and Pieber, Thomas R. and Schaller, "
        "Helga C. and Schaupp, Lukas and Vering, Thomas and Wilinska, Malgorzata E.",
        2004,
        "Nonlinear model predictive control of glucose concentration in subjects with type 1 "
        "diabetes",
        "Physiological Measurement 25, 905-920",
        doi="10.1088/0967-3334/25/4/010",
    ),
    "linear": _DYNAMICS,
    "spiral": _NEURAL_ODE,
    "lotka_volterra": Reference(
        "Lotka, Alfred J.",
        1920,
        "Analytical note on certain rhythmic relations in organic systems",
        "Proceedings of the National Academy of Sciences 6, 410-415",
        doi="10.1073/pnas.6.7.410",
    ),
    "van_der_pol": Reference(
        "van der Pol, Balthasar",
        1926,
        "On relaxation-oscillations",
        "The London, Edinburgh, and Dublin Philosophical Magazine and Journal of Science 2, "
        "978-992",
        doi="10.1080/14786442608564127",
    ),
    "pendulum": _DYNAMICS,
    "winding": _NEURAL_ODE,
    "annuli": Reference(
        "Dupont, Emilien and Doucet, Arnaud and Teh, Yee Whye",
        2019,
        "Augmented neural ODEs",
        "Advances in Neural Information Processing Systems 32",
        arxiv="1904.01681",
    ),
    "density": Reference(
        "Grathwohl, Will and Chen, Ricky T. Q. and Bettencourt, Jesse and Sutskever, Ilya and "
        "Duvenaud, David",
        2019,
        "FFJORD: Free-form continuous dynamics for scalable reversible generative models",
        "International Conference on Learning Representations",
        arxiv="1810.01367",
    ),
}
