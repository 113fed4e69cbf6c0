"""The paper's networks to the number, and the other members of the family."""

import pytest
import torch
from torch import nn

from vaeseg.config import ArchitectureConfig
from vaeseg.models.blocks import ConvBlock, ResidualBlock, TransposeBlock
from vaeseg.models.decoder import build_decoder
from vaeseg.models.encoder import build_encoder, feature_channels, paper_widths
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder, latent_shape

PAPER = ArchitectureConfig()
SMALL = ArchitectureConfig(kind="spatial", image_size=64, base_width=4, latent_channels=3)

ENCODER_TABLE = [
    (16, 128), (32, 128), (32, 64), (32, 64), (32, 32), (64, 32), (64, 16), (64, 16), (64, 8), (1024, 1), (1024, 1),
]  # fmt: skip
"""Channels and side after each layer of the paper's encoder at 256 x 256."""

DECODER_TABLE = [
    (1024, 1), (64, 8), (64, 8), (64, 16), (64, 16), (64, 32), (32, 32), (32, 64), (32, 64), (32, 128), (16, 128),
    (16, 256), (1, 256),
]  # fmt: skip
"""The same for the decoder, its Sigmoid left out."""


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def shapes_through(network: nn.Sequential, features: torch.Tensor) -> list[tuple[int, int]]:
    shapes = []
    for layer in network:
        features = layer(features)
        assert features.shape[-1] == features.shape[-2]
        shapes.append((features.shape[1], features.shape[-1]))
    return shapes


def test_paper_encoder_has_the_papers_parameters() -> None:
    """The encoder counts 4,357,552 parameters, heads not included."""
    assert parameters(build_encoder(PAPER)) == 4_357_552


def test_paper_decoder_has_the_papers_parameters() -> None:
    """The decoder counts 4,994,641 parameters."""
    assert parameters(build_decoder(PAPER)) == 4_994_641


def test_paper_heads_are_two_convolutions_of_one_pixel() -> None:
    """Mean and log variance come from 1 x 1 convolutions, 1024 to 512."""
    model = VariationalAutoencoder(PAPER)
    for head in (model.mean, model.logvar):
        assert (head.in_channels, head.out_channels, head.kernel_size) == (1024, 512, (1, 1))


def test_paper_encoder_has_the_papers_output_shapes() -> None:
    """Every layer's channels and side are the table's."""
    with torch.device("meta"):
        shapes = shapes_through(build_encoder(PAPER), torch.zeros(2, 1, 256, 256))
    assert shapes == ENCODER_TABLE


def test_paper_decoder_has_the_papers_output_shapes() -> None:
    """Every layer's channels and side are the table's."""
    with torch.device("meta"):
        shapes = shapes_through(build_decoder(PAPER), torch.zeros(2, 512, 1, 1))
    assert shapes == DECODER_TABLE


def test_paper_blocks_have_no_bias_before_batch_norm() -> None:
    """Convolutions inside blocks have no bias; the three plain ones of the paper have one."""
    layers = [*build_encoder(PAPER), *build_decoder(PAPER)]
    blocks = [layer for layer in layers if isinstance(layer, ConvBlock | TransposeBlock)]
    plain = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert len(blocks) == 9 + 11
    assert all(block[0].bias is None for block in blocks)
    assert [layer.bias is not None for layer in plain] == [True] * 3


@pytest.mark.parametrize(("size", "stages"), [(64, 3), (128, 4), (256, 5), (512, 6)])
def test_other_sizes_drop_or_add_a_stage(size: int, stages: int) -> None:
    """Each doubling of the image adds one stage; the vector and the innermost width stay."""
    architecture = ArchitectureConfig(image_size=size, base_width=2, latent_channels=8)
    widths = paper_widths(architecture)
    assert len(widths) == stages
    assert widths[0] == 2
    assert widths[-1] == 8
    model = VariationalAutoencoder(architecture)
    logits, posterior = model(torch.zeros(2, 1, size, size))
    assert logits.shape == (2, 1, size, size)
    assert posterior.mean.shape == posterior.logvar.shape == (2, 8, 1, 1)


@pytest.mark.parametrize(("size", "downsampling"), [(64, 4), (96, 8), (128, 16)])
def test_spatial_latent_has_the_asked_shape(size: int, downsampling: int) -> None:
    """The latent map is latent_channels x (image_size / downsampling) squared, and logits have the image's size."""
    architecture = ArchitectureConfig(
        kind="spatial", image_size=size, base_width=2, latent_channels=5, downsampling=downsampling
    )
    logits, posterior = VariationalAutoencoder(architecture)(torch.zeros(2, 1, size, size))
    assert logits.shape == (2, 1, size, size)
    assert (
        posterior.mean.shape
        == latent_shape(architecture, 2, size)
        == (2, 5, size // downsampling, size // downsampling)
    )


def test_spatial_network_takes_crops() -> None:
    """A spatial network of 64 pixels runs on 32, so that it can be trained on crops."""
    logits, posterior = Segmenter(SMALL)(torch.zeros(2, 1, 32, 32))
    assert logits.shape == (2, 1, 32, 32)
    assert posterior.mean.shape == latent_shape(SMALL, 2, 32)


@pytest.mark.parametrize("architecture", [SMALL, ArchitectureConfig(image_size=64, base_width=2, latent_channels=4)])
def test_nothing_passes_around_the_latent(architecture: ArchitectureConfig) -> None:
    """Two images with the same latent give the same logits: there are no skip connections."""
    model = VariationalAutoencoder(architecture).eval()
    with torch.no_grad():
        for head in (model.mean, model.logvar):
            head.weight.zero_()
        first, second = (model(torch.full((1, 1, 64, 64), value))[0] for value in (0.1, 0.9))
    assert torch.equal(first, second)


def test_noise_moves_the_latent_by_its_standard_deviation() -> None:
    """z = mean + exp(logvar / 2) noise, by hand."""
    model = VariationalAutoencoder(SMALL).eval()
    model.decoder = nn.Identity()  # type: ignore[assignment]
    images = torch.rand(2, 1, 64, 64)
    noise = torch.randn(latent_shape(SMALL, 2, 64))
    with torch.no_grad():
        latent, posterior = model(images, noise)
        mean, _ = model(images)
    assert torch.equal(mean, posterior.mean)
    torch.testing.assert_close(latent, posterior.mean + posterior.logvar.mul(0.5).exp() * noise)


def test_second_decoder_starts_from_the_first() -> None:
    """Stage two takes over every weight of stage one."""
    vae, segmenter = VariationalAutoencoder(SMALL), Segmenter(SMALL)
    segmenter.start_from(vae)
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(vae.eval()(images)[0], segmenter.eval()(images)[0])


def test_second_stage_refuses_another_architecture() -> None:
    """Weights of a different network are not taken over."""
    other = ArchitectureConfig(kind="spatial", image_size=64, base_width=8, latent_channels=3)
    with pytest.raises(ValueError, match="expected"):
        Segmenter(SMALL).start_from(VariationalAutoencoder(other))


def test_frozen_encoder_leaves_only_the_decoder() -> None:
    """After freezing, exactly the decoder's weights can be trained."""
    model = Segmenter(SMALL)
    model.freeze_encoder()
    trained = {id(weight) for weight in model.parameters() if weight.requires_grad}
    assert trained == {id(weight) for weight in model.decoder.parameters()}


def test_probability_is_the_sigmoid_of_the_mean() -> None:
    """Inference decodes the posterior mean, so that it is repeatable, and gives values in [0, 1]."""
    model = Segmenter(SMALL).eval()
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        first, second = model.probability(images), model.probability(images)
        assert torch.equal(first, torch.sigmoid(model(images)[0]))
    assert torch.equal(first, second)


@pytest.mark.parametrize("channels", [(4, 8), (8, 16)])
@pytest.mark.parametrize("batch", [2, 7])
@pytest.mark.parametrize("bf16", [False, True])
def test_strided_residual_block_trains_in_channels_last(channels: tuple[int, int], batch: int, bf16: bool) -> None:
    """Backward of a strided block survives: a strided 1 x 1 shortcut corrupted memory at these very shapes."""
    block = ResidualBlock(*channels, stride=2).to(memory_format=torch.channels_last)
    features = torch.rand(batch, channels[0], 64, 64).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = block(features)
    output.float().square().mean().backward()
    assert output.shape == (batch, channels[1], 32, 32)
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_feature_channels_match_the_encoder() -> None:
    """What the heads expect is what the encoder gives."""
    for architecture in (SMALL, ArchitectureConfig(image_size=64, base_width=2)):
        features = build_encoder(architecture)(torch.zeros(2, 1, 64, 64))
        assert features.shape[1] == feature_channels(architecture)


@pytest.mark.parametrize(("patch_size", "downsampling"), [(2, 4), (4, 4), (4, 8), (8, 8)])
def test_folded_pixels_come_back_where_they_were(patch_size: int, downsampling: int) -> None:
    """Image in, image of the same size out, latent as small as asked for; no layer works at a larger size."""
    architecture = ArchitectureConfig(
        kind="spatial", image_size=64, base_width=4, latent_channels=3, downsampling=downsampling, patch_size=patch_size
    )
    model = VariationalAutoencoder(architecture).eval()
    logits, posterior = model(torch.rand(2, 1, 64, 64))
    assert logits.shape == (2, 1, 64, 64)
    assert posterior.mean.shape == latent_shape(architecture, 2, 64) == (2, 3, 64 // downsampling, 64 // downsampling)
    sides = [side for _, side in shapes_through(build_encoder(architecture), torch.zeros(2, 1, 64, 64))]
    assert max(sides) == 64 // patch_size


def test_a_pixel_is_answered_for_where_it_lies() -> None:
    """The logits that one corner of the latent moves lie in that corner of the image: nothing is transposed."""
    architecture = ArchitectureConfig(kind="spatial", image_size=96, base_width=4, latent_channels=3, patch_size=4)
    decoder = build_decoder(architecture).eval()
    latent = torch.zeros(1, 3, 12, 12)
    moved = latent.clone()
    moved[:, :, 0, 11] = 10.0
    rows, columns = torch.nonzero((decoder(moved) - decoder(latent))[0, 0].abs() > 1e-6).float().mean(0).tolist()
    assert rows < 32
    assert columns > 64


def test_decoders_are_as_deep_as_asked_for() -> None:
    """Each block more at latent size adds a residual block, dilated in turn as the encoder's are."""
    dilations = []
    for n in (1, 5):
        architecture = ArchitectureConfig(
            kind="spatial", image_size=64, base_width=4, latent_channels=3, decoder_latent_blocks=n
        )
        blocks = [layer for layer in build_decoder(architecture)[1 : n + 1] if isinstance(layer, ResidualBlock)]
        dilations.append([block.body[1].dilation[0] for block in blocks])  # type: ignore[union-attr, index]
    assert dilations == [[1], [1, 2, 4, 1, 2]]


@pytest.mark.parametrize("changes", [{"patch_size": 3}, {"patch_size": 16}, {"decoder_latent_blocks": 0}])
def test_impossible_members_of_the_family_are_refused(changes: dict[str, int]) -> None:
    """Patches are powers of two and no larger than a latent pixel; a decoder has a block."""
    with pytest.raises(ValueError, match=next(iter(changes))):
        ArchitectureConfig(kind="spatial", image_size=64, downsampling=8, **changes)  # type: ignore[arg-type]
