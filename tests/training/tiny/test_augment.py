"""The ways in which a caller's voice is changed, measured on a signal that is known."""

from __future__ import annotations

import numpy as np
import pytest

from moshi_agent.training.tiny import augment, noise
from moshi_agent.training.tiny.augment import HELD_OUT_AUGMENTATION, TRAINING_AUGMENTATION, NoiseBank
from moshi_agent.training.tiny.opus import opus_round_trip
from moshi_agent.training.tiny.speech import SAMPLE_RATE_HZ, Audio


def voice_like(seconds: float = 2.0) -> Audio:
    """A gliding tone with harmonics below 3 kHz that comes and goes, like a voice on a telephone."""
    time_s = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 0.7 * time_s)) / SAMPLE_RATE_HZ
    tones = sum(np.sin(order * phase) / order for order in range(2, 16))
    return (0.1 * tones * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * time_s))).astype(np.float32)


def ratio_db(signal: Audio, difference: Audio) -> float:
    return 10 * float(np.log10(np.sum(signal**2) / np.sum(difference**2)))


def lag_samples(sent: Audio, received: Audio) -> int:
    size = 2 * len(sent)
    cross = np.fft.irfft(np.fft.rfft(received, size) * np.conj(np.fft.rfft(sent, size)))
    at = int(np.argmax(cross))
    return at if at < len(sent) else at - size


def test_mu_law_keeps_a_telephone_signal_at_its_known_quality() -> None:
    """G.711 gives 30 dB and more of signal to noise for a signal in its band, and stays in time."""
    sent = voice_like()
    received = augment.mu_law_round_trip(sent)
    middle = slice(1000, -1000)
    assert received.shape == sent.shape
    assert received.dtype == np.float32
    assert lag_samples(sent, received) == 0
    assert 28 < ratio_db(sent[middle], received[middle] - sent[middle]) < 45


def test_mu_law_takes_what_is_above_four_kilohertz() -> None:
    """A tone of 6 kHz does not pass a telephone line, and digital silence stays digital silence."""
    tone = np.sin(2 * np.pi * 6000 * np.arange(24_000) / SAMPLE_RATE_HZ).astype(np.float32) * np.float32(0.3)
    assert np.abs(augment.mu_law_round_trip(tone)[500:-500]).max() < 0.01
    assert not augment.mu_law_round_trip(np.zeros(4000, np.float32)).any()


@pytest.mark.parametrize("bit_rate", [16_000, 32_000])
def test_opus_stays_in_time_and_recognisable(bit_rate: int) -> None:
    """What comes out of Opus has the length and the timing of what went in."""
    sent = voice_like()
    received = opus_round_trip(sent, bit_rate=bit_rate, lost=0.0, rng=np.random.default_rng(0))
    assert received.shape == sent.shape
    assert abs(lag_samples(sent, received)) <= 12
    assert np.corrcoef(sent, received)[0, 1] > 0.9


def test_opus_loses_the_packets_it_is_told_to() -> None:
    """Losing a third of the packets changes the sound, and only by repeating what came before."""
    sent = voice_like()
    whole = opus_round_trip(sent, bit_rate=24_000, lost=0.0, rng=np.random.default_rng(0))
    broken = opus_round_trip(sent, bit_rate=24_000, lost=0.33, rng=np.random.default_rng(0))
    assert broken.shape == whole.shape
    assert 0 < ratio_db(whole, broken - whole) < 15


def test_echo_is_late_and_quiet() -> None:
    """The echo lies 80 to 300 ms behind the bot's voice and 20 to 45 dB below it."""
    bot = voice_like()
    for seed in range(8):
        echo = augment.echo_of(bot, np.random.default_rng(seed), TRAINING_AUGMENTATION)
        assert echo.shape == bot.shape
        assert 0.079 < lag_samples(bot, echo) / SAMPLE_RATE_HZ < 0.302
        assert 19 < ratio_db(bot, echo) < 46


def test_random_filter_keeps_the_level() -> None:
    """A filter colours the sound and leaves its level."""
    sent = voice_like()
    for seed in range(8):
        changed = augment.random_filter(sent, np.random.default_rng(seed))
        assert ratio_db(sent, changed) == pytest.approx(0, abs=0.01)


def test_noise_has_unit_level_and_the_bank_draws_all_kinds() -> None:
    """Every lasting kind of noise is at unit level and has no bad sample."""
    rng = np.random.default_rng(3)
    for make in (*noise.TRAINING_NOISES.values(), *noise.HELD_OUT_NOISES.values()):
        made = make(48_000, rng)
        assert made.dtype == np.float32
        assert np.sqrt(np.mean(made.astype(np.float64) ** 2)) == pytest.approx(1, abs=0.01)
    bank = NoiseBank.make(TRAINING_AUGMENTATION.noises, rng, [voice_like(0.5)], stretches=2)
    assert set(bank.noises) == set(TRAINING_AUGMENTATION.noises)
    for made in bank.noises.values():
        first, second = made.reshape(2, -1)
        assert not np.array_equal(first, second)
    assert bank.draw(700_000, rng).shape == (700_000,)


def test_bursts_are_short_and_at_the_configured_peak() -> None:
    """A burst lasts at most a second and peaks where the configuration says."""
    for config in (TRAINING_AUGMENTATION, HELD_OUT_AUGMENTATION):
        for seed in range(30):
            made = augment.burst(np.random.default_rng(seed), config)
            peak_db = 20 * np.log10(np.abs(made).max())
            assert len(made) <= SAMPLE_RATE_HZ
            assert config.burst_peak_db[0] - 0.01 <= peak_db <= config.burst_peak_db[1] + 0.01


def test_held_out_noise_is_of_other_kinds() -> None:
    """No kind of noise or burst is in both training and measuring."""
    assert not set(TRAINING_AUGMENTATION.noises) & set(HELD_OUT_AUGMENTATION.noises)
    assert not set(TRAINING_AUGMENTATION.bursts) & set(HELD_OUT_AUGMENTATION.bursts)
