"""BibTeX entries of the works that shipped plugins come from; one place for each."""

from typing import Final

COPUR: Final = """\
@inproceedings{liu2022copur,
  author = {Jing Liu and Chulin Xie and Oluwasanmi Koyejo and Bo Li},
  title = {{CoPur}: Certifiably Robust Collaborative Inference via Feature Purification},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
}
"""
MADRY: Final = """\
@inproceedings{madry2018towards,
  author = {Aleksander Madry and Aleksandar Makelov and Ludwig Schmidt and
            Dimitris Tsipras and Adrian Vladu},
  title = {Towards Deep Learning Models Resistant to Adversarial Attacks},
  booktitle = {International Conference on Learning Representations},
  year = {2018},
}
"""
CARLINI: Final = """\
@inproceedings{carlini2017towards,
  author = {Nicholas Carlini and David Wagner},
  title = {Towards Evaluating the Robustness of Neural Networks},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2017},
}
"""
CROCE: Final = """\
@inproceedings{croce2020reliable,
  author = {Francesco Croce and Matthias Hein},
  title = {Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
           Parameter-Free Attacks},
  booktitle = {International Conference on Machine Learning},
  year = {2020},
}
"""
SQUARE: Final = """\
@inproceedings{andriushchenko2020square,
  author = {Maksym Andriushchenko and Francesco Croce and Nicolas Flammarion and
            Matthias Hein},
  title = {Square Attack: A Query-Efficient Black-Box Adversarial Attack via Random
           Search},
  booktitle = {European Conference on Computer Vision},
  year = {2020},
}
"""
ILYAS: Final = """\
@inproceedings{ilyas2018black,
  author = {Andrew Ilyas and Logan Engstrom and Anish Athalye and Jessy Lin},
  title = {Black-Box Adversarial Attacks with Limited Queries and Information},
  booktitle = {International Conference on Machine Learning},
  year = {2018},
}
"""
ADI: Final = """\
@inproceedings{pang2023adi,
  author = {Qi Pang and Yuanyuan Yuan and Shuai Wang and Wenting Zheng},
  title = {{ADI}: Adversarial Dominating Inputs in Vertical Federated Learning Systems},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2023},
}
"""
COHEN: Final = """\
@inproceedings{cohen2019certified,
  author = {Jeremy Cohen and Elan Rosenfeld and J. Zico Kolter},
  title = {Certified Adversarial Robustness via Randomized Smoothing},
  booktitle = {International Conference on Machine Learning},
  year = {2019},
}
"""
LEVINE: Final = """\
@inproceedings{levine2020robustness,
  author = {Alexander Levine and Soheil Feizi},
  title = {Robustness Certificates for Sparse Adversarial Attacks by Randomized Ablation},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2020},
}
"""
FPA: Final = """\
@inproceedings{hammoudeh2024provable,
  author = {Zayd Hammoudeh and Daniel Lowd},
  title = {Provable Robustness Against a Union of {$\\ell_0$} Adversarial Attacks},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2024},
}
"""
PATCHCLEANSER: Final = """\
@inproceedings{xiang2022patchcleanser,
  author = {Chong Xiang and Saeed Mahloujifar and Prateek Mittal},
  title = {{PatchCleanser}: Certifiably Robust Defense against Adversarial Patches for
           Any Image Classifier},
  booktitle = {USENIX Security Symposium},
  year = {2022},
}
"""
MODDROP: Final = """\
@article{neverova2016moddrop,
  author = {Natalia Neverova and Christian Wolf and Graham Taylor and Florian Nebout},
  title = {{ModDrop}: Adaptive Multi-Modal Gesture Recognition},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year = {2016},
}
"""
SUN: Final = """\
@misc{sun2019can,
  author = {Ziteng Sun and Peter Kairouz and Ananda Theertha Suresh and
            H. Brendan McMahan},
  title = {Can You Really Backdoor Federated Learning?},
  note = {arXiv:1911.07963},
  year = {2019},
}
"""
VFLIP: Final = """\
@inproceedings{cho2024vflip,
  author = {Yungi Cho and Woorim Han and Miseon Yu and Younghan Lee and Ho Bae and
            Yunheung Paek},
  title = {{VFLIP}: A Backdoor Defense for Vertical Federated Learning via
           Identification and Purification},
  booktitle = {European Symposium on Research in Computer Security},
  year = {2024},
}
"""
RIDGE: Final = """\
@article{hoerl1970ridge,
  author = {Arthur E. Hoerl and Robert W. Kennard},
  title = {Ridge Regression: Biased Estimation for Nonorthogonal Problems},
  journal = {Technometrics},
  year = {1970},
}
"""
CONFORMAL: Final = """\
@book{vovk2005algorithmic,
  author = {Vladimir Vovk and Alexander Gammerman and Glenn Shafer},
  title = {Algorithmic Learning in a Random World},
  publisher = {Springer},
  year = {2005},
}
"""
MAXVAR: Final = """\
@article{kettenring1971canonical,
  author = {J. R. Kettenring},
  title = {Canonical Analysis of Several Sets of Variables},
  journal = {Biometrika},
  year = {1971},
}
"""
RFA: Final = """\
@article{pillutla2022robust,
  author = {Krishna Pillutla and Sham M. Kakade and Zaid Harchaoui},
  title = {Robust Aggregation for Federated Learning},
  journal = {IEEE Transactions on Signal Processing},
  year = {2022},
}
"""
NUSWIDE: Final = """\
@inproceedings{chua2009nuswide,
  author = {T.-S. Chua and J. Tang and R. Hong and H. Li and Z. Luo and Y. Zheng},
  title = {{NUS-WIDE}: A Real-World Web Image Database from National University of
           Singapore},
  booktitle = {ACM International Conference on Image and Video Retrieval},
  year = {2009},
  doi = {10.1145/1646396.1646452},
}
"""
EXTRASENSORY: Final = """\
@article{vaizman2017recognizing,
  author = {Y. Vaizman and K. Ellis and G. Lanckriet},
  title = {Recognizing Detailed Human Context in the Wild from Smartphones and
           Smartwatches},
  journal = {IEEE Pervasive Computing},
  volume = {16},
  number = {4},
  year = {2017},
  doi = {10.1109/MPRV.2017.3971131},
}
"""
MFEAT: Final = """\
@misc{duin1998multiple,
  author = {Robert Duin},
  title = {Multiple Features},
  howpublished = {UCI Machine Learning Repository},
  year = {1998},
  doi = {10.24432/C5HC70},
}
"""
