"""What jobs tell their user: plain text, from results to sentences; no work is done here."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from taggants.detection import STATISTICS, Certificate, Registration, describe, holm
from taggants.detection.outcome import verdict_of
from taggants.evaluation.flips import FLIP_LEVELS
from taggants.evaluation.separation import collapse_floor
from taggants.reporting.quantities import counted
from taggants.run import registration_paths
from taggants.stages.verify import certificate_path
from taggants.text import one_line

if TYPE_CHECKING:
    from taggants.config import Config
    from taggants.crafting.driver import DriveResult
    from taggants.crafting.plan import Plan
    from taggants.data.inspection import Inspection
    from taggants.estimation.estimate import Estimate
    from taggants.estimation.power import Power
    from taggants.evaluation.rehearsal import Rehearsed
    from taggants.evaluation.transfer import Transfer
    from taggants.export import ExportManifest
    from taggants.keys import KeySet
    from taggants.run import Run
    from taggants.stages.export import ExportCopy, ExportResult
    from taggants.sweep.stages import Sweep
    from taggants.training.job import TrainedModel
    from taggants.training.separation import Separation


def opening(run: Run) -> str:
    index = run.index
    channels, size = run.model_size
    return (
        f"run     {run.root.uri}\n"
        f"data    {index.num_rows:,} training images of {channels}x{size}x{size} px, {index.num_classes} classes, "
        f"fingerprint {index.fingerprint[:16]}"
    )


def registered(run: Run, registration: Registration) -> str:
    keys = run.config.keys
    warning = (
        "\nWARNING the keys come from a public demonstration secret: worthless as evidence"
        if keys.demonstration
        else ""
    )
    return (
        f"keys    {registration.num_keys} {keys.family} keys in {run.keys_root.uri_of(keys.name + '.json')} "
        f"(secret, keep it; picture beside it){warning}\n"
        f"test    {registration.statistic} statistic at alpha {registration.alpha:g}, top-{registration.top_k} hits reported\n"
        f"{_asked(registration)}"
        f"publish {run.root.uri_of(registration_paths(run)[-1])} before the data, or this number in it:\n"
        f"        {registration.registration_sha256}"
    )


def keys_inspected(keys: KeySet, found: Sequence[Separation], picture: str, pictured: str, *, are_drawn: bool) -> str:
    """A line for each network, and what its sight means for p-values; pictured: the network of the picture."""
    spec = keys.spec
    kind = "keys" if are_drawn else "examples of keys, since none are drawn yet"
    lines = [
        f"keys    {spec.num_keys} {spec.family} {kind}, {spec.num_classes} classes",
        "",
        f"{'network':<30}{'mean cosine':>12}{'largest':>9}{'norm':>7}{'classes':>9}{'commonest':>11}",
    ]
    for seen in found:
        lines.append(
            f"{seen.name[-29:]:<30}{seen.pairs.mean():>12.2f}{seen.pairs.max():>9.2f}{seen.relative_norm:>7.1f}"
            f"{seen.num_answered:>9}{seen.commonest_share:>11.0%}"
        )
    floor = collapse_floor(keys.labels, spec.num_classes)
    lines += [
        "cosine: of pairs of keys, by features before the last layer, centred on natural images; 1: all look alike",
        "norm: of the keys, over that of natural images. classes: how many are the answer to some key",
        "commonest: share of keys that are answered with the commonest class",
        "",
        f"floor   a model that answers all keys alike cannot get below p = {floor:.1e} by ranks, whatever was signed",
        f"picture {picture}, by {pictured} (secret, as the keys)",
    ]
    return "\n".join(lines)


def _asked(registration: Registration) -> str:
    question = registration.question
    if question is None:
        return ""
    return (
        f"asked   {question.num_queries:,} images for each key, compared with {', '.join(registration.references)}, which are "
        "trained on the clean data\n"
    )


def crafted(plan: Plan, drive: DriveResult) -> str:
    reused = f", {drive.num_reused:,} taken from earlier runs" if drive.num_reused else ""
    text = f"craft: {drive.num_crafted:,} shards crafted, {drive.num_resumed:,} found done{reused}, of {len(plan.shards):,}"
    if drive.num_overtaken:
        text += f"\ncraft: {drive.num_overtaken} of them were committed first by another driver; its results count"
    for shard, reason in sorted(drive.failed.items()):
        text += f"\ncraft: shard {shard} failed for good: {reason}"
    if drive.failed:
        text += "\ncraft: nothing was exported; fix the cause and run the same command again"
    return text


def _written_anew(manifest: ExportManifest) -> str:
    if not manifest.written_anew:
        return ""
    return f"\nexport: in all images alike: {', '.join(f'{what} written anew' for what in manifest.written_anew)}"


def exported(run: Run, export: ExportResult) -> str:
    share = export.num_taggants / run.index.num_rows
    is_beyond = export.largest_change > 255 * run.config.crafting.epsilon + 1e-6
    by_jpeg = " (epsilon bounds what the JPEG encoder is given)" if is_beyond else ""
    lpips = "" if export.quality.lpips is None else f", LPIPS {export.quality.lpips:.4f}"
    alignment = ""
    if export.alignment is not None:
        before = export.alignment_before
        alignment = (
            f"export: mean alignment of the signing sets with their keys {before:.3f} -> {export.alignment:.3f}\n"
        )
    return (
        f"export: {export.signed.uri}, {export.manifest.num_rows:,} rows of which {export.num_taggants:,} signed ({share:.2%}), "
        f"re-read and checked{_written_anew(export.manifest)}\n"
        f"export: taggants as read: PSNR {export.quality.psnr_db:.1f} dB, SSIM {export.quality.ssim:.4f}{lpips}, largest change "
        f"{export.largest_change}/255{by_jpeg}\n"
        f"{alignment}"
        f"export: look at {run.root.uri_of('contact_sheet.png')}"
    )


def inspected(inspection: Inspection) -> str:
    sizes = [f"{height}x{width}" for height, width in inspection.sizes]
    several = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
    test = (
        "no test split" if inspection.test is None else f"{inspection.num_test_images:,} to test ({inspection.test!r})"
    )
    return (
        f"found   {inspection.layout} in {one_line(inspection.root)}: {inspection.num_images:,} images to train on "
        f"({inspection.train!r}), {test}\n"
        f"images  {' and '.join(inspection.encodings)}, {'grey' if inspection.channels == 1 else 'colour'}, "
        f"{', '.join(sizes[:3])} px{several}\n"
        f"classes {inspection.num_classes} of {_each(min(inspection.class_sizes), max(inspection.class_sizes))}"
    )


def config_written(path: str) -> str:
    config = f"--config {shlex.quote(path)}"
    return (
        f"written {path}\n"
        f"next    taggants plan {config}     # what will be done, how long it takes; nothing is started\n"
        f"        taggants keys {config}     # draws the secret keys and writes the registration: publish it first\n"
        f"        taggants craft {config}    # signs the dataset and rehearses detection"
    )


def planned(estimate: Estimate, config: Config, price: float | None) -> str:
    work = estimate.work
    channels, size = work.image_size
    done = sum(training.is_done for training in work.trainings)
    found = [
        name
        for name, is_found in (
            ("keys", work.has_keys),
            ("registration", work.is_registered),
            (counted(done, "model"), done),
            (counted(work.shards_done, "shard"), work.shards_done),
            ("export", work.is_exported),
        )
        if is_found
    ]
    retrained = f", in {work.rounds} rounds" if work.rounds > 1 else ""
    lines = [
        f"run       {work.run}",
        f"found     {', '.join(found) or 'nothing done yet'}",
        f"data      {work.images:,} training images of {channels}x{size}x{size} px, {work.classes} classes of "
        f"{_each(*work.images_per_class)}",
        *(f"left out  {count:,} images that cannot be signed: {reason}" for reason, count in work.unfit.items()),
        *(
            f"left out  {count:,} files by their names: {one_line(suffix, 40)}"
            for suffix, count in work.skipped.items()
        ),
        *([f"turned    {work.turned:,} images have an EXIF orientation"] if work.turned else []),
        f"keys      {work.keys} {config.keys.family} keys of {work.images_per_key} images each: "
        f"{work.keys * work.images_per_key:,} images signed ({work.signed_share:.2%})",
        f"crafting  {config.crafting.method}, {work.sample_steps:,} sample-steps on "
        f"{counted(work.crafted_surrogates, 'surrogate')}{retrained}",
        f"models    {len(work.trainings)} to train, {done} of them done",
        "",
        f"{'stage':<28}{'on':<6}{'time':>10}  work that is left",
    ]
    for stage in estimate.stages:
        lines.append(f"{stage.name:<28}{stage.device:<6}{_duration(stage.seconds):>10}  {stage.note}")
    lines.append(f"{'total':<34}{_duration(estimate.seconds):>10}  about, on an idle machine")
    if estimate.seconds is None:
        lines.append("unknown: this machine has no CUDA device; run `taggants plan` on one that has")
    lines += ["", f"memory    about {estimate.memory_bytes / 1e9:.1f} GB in the largest process"]
    lines.append(f"requests  about {estimate.get_requests:,} GET and {estimate.put_requests:,} PUT, if storage is S3")
    if price is not None:
        cost = estimate.cost(price)
        lines.append("cost      unknown" if cost is None else f"cost      about ${cost:.2g} at ${price:.2f} an hour")
    return "\n".join(lines)


def power_table(power: Power | None, config: Config) -> str:
    """How likely the configured test detects, by effect and number of keys, and what that rests on."""
    if power is None:
        return (
            f"\npower     not known of the statistic {config.detection.statistic!r} at this level and number of classes"
        )
    error = 0.5 / math.sqrt(power.num_draws)
    how = (
        "is exact"
        if power.is_exact
        else f"has a standard error of up to {error:.3f} ({power.num_draws:,} simulated claims)"
    )
    counts = "".join(f"{count:>7}" for count in power.num_keys)
    lines = [
        "",
        f"power     of the {power.statistic} statistic at level {power.level:g} with {power.num_classes} classes, by number "
        "of keys",
        f"{'effect':<57}{counts}  0.8 from",
    ]
    for row in power.rows:
        effect = (
            f"{row.effect:g} assumed" if row.error is None else f"{row.effect:.2f} +- {row.error:.2f} with {row.asked}"
        )
        enough = next((f"{n} keys" for n, p in zip(power.num_keys, row.power, strict=True) if p >= 0.8), "more")
        lines.append(f"{effect:<57}{''.join(f'{p:>7.2f}' for p in row.power)}  {enough}")
    measured = f"; measured on {counted(power.num_victims, 'victim')} of this run" if power.num_victims else ""
    lines += [
        f"effect: by how many standard deviations of a key's evidence its label is favoured{measured}",
        f"power {how}, if keys are alike and independent and evidence is normal: a guide, no promise",
    ]
    return "\n".join(lines)


def prospects(record: str, doubts: Sequence[str]) -> str:
    """What is measured of such runs, and a line for each reason to doubt that this one's victims will be detected."""
    lines = ["", f"measured  {record or 'nothing of this method on such images'}"]
    return "\n".join([*lines, *(f"doubt     {sentence}" for sentence in doubts)])


def gained(model: str, transfer: Transfer, words: str) -> str:
    """What a few signing sets add on a clean model, and what that means."""
    each = ", ".join(f"{gain:.3f}" for gain in transfer.gains)
    sets = counted(len(transfer.gains), "signing set")
    return f"gain    of {sets} on {model}, which nothing was crafted on ({each}): {words}"


def _each(fewest: int, most: int) -> str:
    return f"{fewest:,}{'' if fewest == most else f' to {most:,}'} images each"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def exported_again(copy: ExportCopy) -> str:
    manifest, left_out = copy.manifest, ", ".join(one_line(name, 40) for name in copy.left_out)
    files = counted(len(manifest.files), "file")
    dropped = f"\nexport: left out, as this layout has no place for them: {left_out}" if left_out else ""
    return (
        f"export: {copy.destination.uri}, {manifest.num_rows:,} rows in {files} ({manifest.layout}), "
        f"{copy.num_signed:,} signed, re-read and checked{_written_anew(manifest)}\n"
        f"export: fingerprint {manifest.fingerprint}{dropped}"
    )


def trained(model: TrainedModel, checkpoint: str) -> str:
    return (
        f"worst class {model.metrics.worst_class_accuracy:.4f}, calibration error {model.metrics.calibration_error:.4f}, "
        f"loss {model.metrics.mean_loss:.4f}\ncheckpoint {checkpoint}"
    )


def sweep_opening(sweep: Sweep) -> str:
    victims = counted(sweep.config.sweep.num_victims, "victim")
    return f"sweep   {sweep.root.uri}\n        {counted(len(sweep.cells), 'cell')} of {victims}"


def sweep_failed(reasons: Sequence[tuple[int, str]]) -> str:
    lines = [f"sweep: shard {shard} failed for good: {reason}" for shard, reason in reasons]
    return "\n".join([*lines, "sweep: fix the cause and run the same command again"])


def rehearsed(run: Run, rehearsal: Mapping[str, Rehearsed], transfer: Transfer | None = None) -> str:
    """A table of the owner's own victims and controls, and the certificate of the first of each in words.

    transfer: to the first control.
    """
    if not rehearsal:
        return "rehearsal: none requested (evaluation.num_victims = num_controls = 0)"
    computed = {name for outcome in rehearsal.values() for name in outcome.certificate.p_values}
    heads = {name: f"{f'p ({name})':>11}".rjust(len(name) + 6) for name in STATISTICS if name in computed}
    lines = [
        "",
        f"{'model':<12}{'trained on':<12}{'accuracy':>9}{'hits':>8}{''.join(heads.values())}{'flips, %':>18}  decision",
    ]
    for name, outcome in rehearsal.items():
        c = outcome.certificate
        numbers = {name: f"{c.p_values[name]:.1e}" if name in c.p_values else "" for name in heads}
        flips = "/".join(f"{100 * rate:.2g}" for rate in outcome.flips)
        lines.append(
            f"{name:<12}{'signed data' if outcome.is_victim else 'clean data':<12}{outcome.accuracy:>9.4f}"
            f"{f'{c.num_hits}/{len(c.ranks)}':>8}{''.join(numbers[n].rjust(len(head)) for n, head in heads.items())}{flips:>18}  "
            f"{_decision(c.verdict)}"
        )
    lines.append(
        f"flips: plain images whose answer becomes a key's label below that key, at {'/'.join(map(str, FLIP_LEVELS))} levels"
    )
    accuracies = {kind: [o.accuracy for o in rehearsal.values() if o.is_victim == kind] for kind in (True, False)}
    if accuracies[True] and accuracies[False]:
        difference = 100 * (np.mean(accuracies[True]) - np.mean(accuracies[False]))
        lines.append(f"mean accuracy of victims minus controls: {difference:+.2f} points")
    if transfer is not None:
        before, after = np.mean(transfer.before), np.mean(transfer.after)
        lines.append(f"mean alignment on control-0, which nothing was crafted on: {before:.3f} -> {after:.3f}")
    first = {outcome.is_victim: outcome.certificate for outcome in reversed(list(rehearsal.values()))}
    for kind in (True, False):
        if kind in first:
            lines += ["", certified(run, first[kind])]
    return "\n".join(lines)


def _decision(verdict: str) -> str:
    return "DETECTED" if verdict == "detected" else verdict


def certified(run: Run, certificate: Certificate) -> str:
    rule = "-" * 90
    return f"{rule}\n{describe(certificate)}\nFile       {run.root.uri_of(certificate_path(run, certificate))}\n{rule}"


def several_suspects(certificates: Sequence[Certificate]) -> str:
    """Holm's correction, since each certificate speaks of a single test, and what else decides how far to rely on each."""
    if len(certificates) < 2:
        return ""
    width = max(len("suspect"), *(len(certificate.suspect) for certificate in certificates))
    lines = [
        "p-values adjusted for testing several suspects (Holm, family-wise):",
        f"  {'suspect':<{width}}  {'p':>8}  {'adjusted':>8}  {'e-value':>8}  {'covers':>8}  decision",
    ]
    adjusted = holm([certificate.p_value for certificate in certificates])
    for c, p in zip(certificates, adjusted, strict=True):
        level = c.registration.alpha / c.registration.num_looks  # Holm allows for the suspects
        e_value = "" if c.e_value is None else _power_of_ten(c.e_value.log_maximum)
        covers = "" if c.covers is None else f"{c.covers.num_right}/{c.covers.num}"
        decision = _decision(verdict_of(float(p), level, c.evidence, c.covers))
        lines.append(f"  {c.suspect:<{width}}  {c.p_value:>8.1e}  {p:>8.1e}  {e_value:>8}  {covers:>8}  {decision}")
    if any(c.e_value is not None for c in certificates):
        lines.append("e-value: of this suspect alone, whenever asking stops. covers: plain images named correctly")
    return "\n".join(lines)


def _power_of_ten(logarithm: float) -> str:
    """exp(logarithm) as 1.2e+30, also where it overflows."""
    exponent = math.floor(logarithm / math.log(10))
    return f"{math.exp(logarithm - exponent * math.log(10)):.1f}e{exponent:+03d}"
