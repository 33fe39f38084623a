"""Manifolds of the joint embedding, shared by purifying defenses."""

from .affine import AffineManifold as AffineManifold
from .affine import fit_affine as fit_affine
from .autoencoder import AutoEncoder as AutoEncoder
from .autoencoder import fit_autoencoder as fit_autoencoder
from .base import Manifold as Manifold
from .implicit import differentiable_code as differentiable_code
from .robust import RobustFit as RobustFit
from .robust import robust_fit as robust_fit
from .select import FittedManifold as FittedManifold
from .select import ManifoldRecipe as ManifoldRecipe
from .select import fit_manifold as fit_manifold
from .select import recovery_error as recovery_error
from .select import simulate_corruption as simulate_corruption
