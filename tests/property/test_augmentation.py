"""Geometry: what moves an image moves its points with it, and the inverse moves both back."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastbook_impl.torch_core import TensorImage, TensorPoint, plain
from fastbook_impl.vision.augment import Flip, Rotate, Zoom, affine_mat, dihedral_mat, flip_mat, project, rotate_mat, zoom_mat

SIDE = 41
angles = st.floats(-30, 30)
zooms = st.floats(.8, 1.4)
spots = st.tuples(st.floats(-.35, .35), st.floats(-.35, .35))


def image_of(spot):
    "A dark image with a soft light at `spot`, which is given from -1 to 1."
    axis = torch.linspace(-1, 1, SIDE)
    return TensorImage(torch.exp(-40*((axis[:, None] - spot[1])**2 + (axis[None] - spot[0])**2))[None, None].repeat(1, 3, 1, 1))


def light_in(image):
    "The place of the light: the mean of all places, weighted by brightness."
    weight, axis = plain(image)[0, 0], torch.linspace(-1, 1, SIDE)
    return torch.stack([(weight.sum(0)*axis).sum(), (weight.sum(1)*axis).sum()])/weight.sum()


def moved(tfm, spot):
    image, points = tfm((image_of(spot), TensorPoint(torch.tensor([[spot]]))), split_idx=0)
    return light_in(image), plain(points)[0, 0]


@given(spots, angles)
def test_a_turn_moves_points_with_the_image(spot, angle):
    light, point = moved(Rotate(draw=angle, p=1., pad_mode='zeros'), spot)
    torch.testing.assert_close(light, point, atol=.03, rtol=0)


@given(spots, zooms)
def test_a_zoom_moves_points_with_the_image(spot, zoom):
    light, point = moved(Zoom(draw=zoom, draw_x=.5, draw_y=.5, p=1., pad_mode='zeros'), spot)
    torch.testing.assert_close(light, point, atol=.03, rtol=0)


@given(spots)
def test_a_flip_moves_points_to_the_other_side(spot):
    light, point = moved(Flip(draw=1., p=1.), spot)
    torch.testing.assert_close(light, point, atol=.03, rtol=0)
    torch.testing.assert_close(point, torch.tensor([-spot[0], spot[1]]))


@given(spots, angles)
def test_a_turn_back_returns_every_point(spot, angle):
    point = TensorPoint(torch.tensor([[spot]]))
    back = point
    for a in angle, -angle: back = Rotate(draw=a, p=1.)((image_of(spot), back), split_idx=0)[1]
    torch.testing.assert_close(plain(back), plain(point), atol=1e-5, rtol=0)


@given(angles)
def test_maps_of_opposite_turns_are_inverse(angle):
    x = torch.zeros(1, 3, 8, 8)
    there, back = rotate_mat(x, draw=angle, p=1.), rotate_mat(x, draw=-angle, p=1.)
    torch.testing.assert_close(plain(there @ back)[0], torch.eye(3), atol=1e-5, rtol=0)


@given(spots, angles, zooms)
def test_a_map_and_its_inverse_take_points_back(spot, angle, zoom):
    x = torch.zeros(1, 3, 8, 8)
    mat = rotate_mat(x, draw=angle, p=1.) @ zoom_mat(x, draw=zoom, draw_x=.5, draw_y=.5, p=1.)
    points = torch.tensor([[spot]])
    torch.testing.assert_close(plain(project(project(points, mat), torch.linalg.inv(mat))), points, atol=1e-5, rtol=0)


def test_a_flip_is_its_own_inverse():
    mat = flip_mat(torch.zeros(1, 3, 8, 8), draw=1., p=1.)
    torch.testing.assert_close(plain(mat @ mat)[0], torch.eye(3))


@pytest.mark.parametrize('k', range(8))
def test_every_dihedral_map_keeps_areas_and_has_an_inverse_among_them(k):
    maps = [plain(dihedral_mat(torch.zeros(1, 3, 8, 8), draw=float(i), p=1.))[0] for i in range(8)]
    assert maps[k].det().abs() == pytest.approx(1)
    assert any(torch.allclose(maps[k] @ other, torch.eye(3), atol=1e-6) for other in maps)


@given(st.integers(0, 7), st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_dihedral_moves_of_an_image_and_of_a_point_agree(k, place):
    image = TensorImage(torch.zeros(3, 8, 8))
    image[:, place[1], place[0]] = 1
    at = torch.tensor([[(place[0] + .5)/4 - 1, (place[1] + .5)/4 - 1]])
    row, column = (plain(image.dihedral(k))[0] == 1).nonzero()[0]
    expected = torch.stack([(column + .5)/4 - 1, (row + .5)/4 - 1])
    torch.testing.assert_close(plain(TensorPoint(at).dihedral(k))[0], expected)


@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6))
def test_a_map_of_numbers_has_them_in_its_first_two_rows(values):
    mat = plain(affine_mat(*(torch.tensor([v]) for v in values)))[0]
    assert mat[:2].flatten().tolist() == pytest.approx(values, abs=1e-6) and mat[2].tolist() == [0, 0, 1]
