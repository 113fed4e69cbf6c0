"""The frame of an evaluation report: HTML with a place for each part, its style inside it, no scripts."""

from __future__ import annotations

from string import Template

PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of $model</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; max-width: 1080px; margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.7em; margin: 0 0 .2em; }
h2 { font-size: 1.25em; margin: 2em 0 .5em; border-bottom: 1px solid #ccc; padding-bottom: .2em; }
h3 { font-size: 1em; margin: 0 0 .3em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .9em .25em 0; vertical-align: top; text-align: left; }
thead th { border-bottom: 1px solid #888; font-weight: 600; }
tbody tr:nth-child(even) { background: #f5f6f8; }
.head th { font-weight: 600; padding-right: 1.5em; }
.head td { overflow-wrap: anywhere; }
.head tr:nth-child(even) { background: none; }
.number { text-align: right; }
.research { color: #8a1c1c; font-weight: 600; margin: 0 0 1em; }
.note { background: #fff4d6; border-left: 4px solid #d9a400; padding: .5em .8em; }
.drawings { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 1.5em; }
figure { margin: 0; }
figcaption, .small { color: #555; font-size: .9em; }
img { max-width: 100%; height: auto; }
.cases { width: 100%; }
.key b:nth-child(1) { color: #1a9641; } .key b:nth-child(2) { color: #d7191c; } .key b:nth-child(3) { color: #b59400; }
code { font-size: .9em; }
@media print { body { margin: 0; max-width: none; } figure, tr { break-inside: avoid; } }
</style>
</head>
<body>
<h1>Evaluation of $model</h1>
<p class="research">Research software, not for clinical use.</p>
$head
$notes
<h2>Figures</h2>
<p class="small">At the image's own resolution. Intervals: percentile bootstrap over subjects.</p>
$figures
<h2>By size of the tumour in the slice</h2>
<p class="small">Slices with a label, by the diameter of the disc of the same area.
&ldquo;Nothing found&rdquo;: no labelled pixel was predicted.</p>
$sizes
<h2>Drawings</h2>
<div class="drawings">$drawings</div>
<h2>Cases</h2>
<p class="small key">Of slices with a label the best, those next to the median and the worst by IoU,
and the largest false alarms; no two of a row are of one subject. <b>Green: ground truth.</b>
<b>Red: prediction.</b> <b>Yellow: both.</b></p>
$cases
<h2>Subjects</h2>
<p class="small">The worst first. Mean IoU over the subject's slices that hold a label or a prediction.</p>
$subjects
<h2>Left out</h2>
$refused
</body>
</html>
"""
)
