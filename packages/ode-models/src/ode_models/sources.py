"""The publication to cite for each model of this package; its controls are the suite's own."""

from __future__ import annotations

from ode_core.citation import Reference

_NEURAL_ODE = Reference(
    "Chen, Ricky T. Q. and Rubanova, Yulia and Bettencourt, Jesse and Duvenaud, David",
    2018,
    "Neural ordinary differential equations",
    "Advances in Neural Information Processing Systems 31",
    arxiv="1806.07366",
)
_LATENT = Reference(
    "Rubanova, Yulia and Chen, Ricky T. Q. and Duvenaud, David",
    2019,
    "Latent ordinary differential equations for irregularly-sampled time series",
    "Advances in Neural Information Processing Systems 32",
    arxiv="1907.03907",
)

MODELS = {
    "odenet": _NEURAL_ODE,
    "resnet": Reference(
        "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
        2016,
        "Deep residual learning for image recognition",
        "IEEE Conference on Computer Vision and Pattern Recognition, 770-778",
        doi="10.1109/CVPR.2016.90",
    ),
    "gru": Reference(
        "Cho, Kyunghyun and van Merriënboer, Bart and Gulcehre, Caglar and Bahdanau, Dzmitry and "
        "Bougares, Fethi and Schwenk, Holger and Bengio, Yoshua",
        2014,
        "Learning phrase representations using RNN encoder-decoder for statistical machine "
        "translation",
        "Conference on Empirical Methods in Natural Language Processing, 1724-1734",
        doi="10.3115/v1/D14-1179",
    ),
    "latent_ode": _LATENT,
    "ode_rnn": _LATENT,
    "neural_ode": _NEURAL_ODE,
    "neural_cde": Reference(
        "Kidger, Patrick and Morrill, James and Foster, James and Lyons, Terry",
        2020,
        "Neural controlled differential equations for irregular time series",
        "Advances in Neural Information Processing Systems 33",
        arxiv="2005.08926",
    ),
    "gap_gru": Reference(
        "Che, Zhengping and Purushotham, Sanjay and Cho, Kyunghyun and Sontag, David and Liu, Yan",
        2018,
        "Recurrent neural networks for multivariate time series with missing values",
        "Scientific Reports 8, 6085",
        doi="10.1038/s41598-018-24271-9",
    ),
    "anode": Reference(
        "Dupont, Emilien and Doucet, Arnaud and Teh, Yee Whye",
        2019,
        "Augmented neural ODEs",
        "Advances in Neural Information Processing Systems 32",
        arxiv="1904.01681",
    ),
    "cnf": Reference(
        "Grathwohl, Will and Chen, Ricky T. Q. and Bettencourt, Jesse and Sutskever, Ilya and "
        "Duvenaud, David",
        2019,
        "FFJORD: Free-form continuous dynamics for scalable reversible generative models",
        "International Conference on Learning Representations",
        arxiv="1810.01367",
    ),
}
