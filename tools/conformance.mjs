// Writes docs/conformance.md from the tests' names and the sources' comments:
//   node tools/conformance.mjs            writes it
//   node tools/conformance.mjs --check    fails if it is not what it would write
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FEATURES, NOT_HERE } from './conformance-features.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const target = join(root, 'docs/conformance.md');

/** Title, source, and the number of rows: each has a test, or a reason why not. */
const SERIES = {
	G: [
		'Guest side',
		'negotiation and page status of a Linux guest, Linux arch/x86/kernel/kvm.c (v5.16) and the v12 series',
		8,
	],
	P: [
		'Hypercalls, ioctls and the migration MSR',
		'derived from Linux arch/x86/kvm (v5.12 to v6.1) and the v12 series',
		14,
	],
	T: ['Kernel selftests', 'what Linux tools/testing/selftests/kvm/x86 (v6.14 to v6.16) asserts, restated', 68],
	M: ['Mirror VM', 'derived from Linux arch/x86/kvm/svm/sev.c and the QEMU branch mirror_vm (RFC of August 2021)', 8],
	K: [
		'Known defects of the migration handler',
		'derived from edk2 branch sev-mirror2-patches and QEMU "Confidential guest-assisted live migration" v2, both of August 2021; each is a switch, as posted or fixed',
		24,
	],
	A: ['Attacks on the migration helper', 'each against the handler as posted and the hardened one', 15],
};

/** Every file of the packages and apps, in order. */
const files = ['packages', 'apps', 'interop']
	.flatMap((folder) => readdirSync(join(root, folder), { recursive: true }).map((name) => join(folder, name)))
	.filter((name) => name.endsWith('.ts') && !/(^|\/)(node_modules|dist|\.cache|\.run)\//.test(name))
	.sort();

const rows = [];
const notes = [];
for (const file of files) {
	const text = readFileSync(join(root, file), 'utf8');
	if (file.endsWith('.test.ts')) {
		// A title: `'T-7: text'`, or `'G4, P-13: text'` for a test of several rows.
		for (const [, , names, rest] of text.matchAll(/(['"`])((?:[GPTMKA]-?\d+(?:, )?)+): (.*?)\1/g)) {
			for (const [, series, number] of names.matchAll(/([GPTMKA])-?(\d+)/g)) {
				rows.push({ series, number: Number(number), text: rest, file });
			}
		}
	} else {
		const comments = text.replaceAll(/\n\s*(\/\/|\*)/g, ' ');
		for (const [, kind, what] of comments.matchAll(/(DEVIATION|UNCERTAIN)\(([^)]*)\): /g)) {
			const at = comments.indexOf(`${kind}(${what}): `) + kind.length + what.length + 4;
			const sentence = /^(.*?[.;])(\s|$)/s.exec(comments.slice(at))?.[1] ?? '';
			notes.push({ kind: kind.toLowerCase(), what, text: sentence.replaceAll(/\s+/g, ' ').trim(), file });
		}
	}
}
rows.sort((a, b) => a.series.localeCompare(b.series) || a.number - b.number);

const lines = [
	'# Conformance',
	'',
	'Which numbered behaviour is held by which test, and where this model knowingly differs. Made by `node tools/conformance.mjs`.',
	'The sources of each behaviour are cited where it is implemented; statements that no public source settles are marked there too.',
	'',
];
const missing = [];
for (const [series, [title, source, count]] of Object.entries(SERIES)) {
	lines.push(
		`## ${title} (${series})`,
		'',
		`Source: ${source}.`,
		'',
		'| Row | Behaviour | Test |',
		'| --- | --- | --- |',
	);
	const own = rows.filter((r) => r.series === series);
	for (let number = 1; number <= count; number++) {
		const name = `${series}-${number}`;
		for (const row of own.filter((r) => r.number === number)) {
			lines.push(`| ${name} | ${row.text.replaceAll('|', '\\|')} | \`${row.file}\` |`);
		}
		if (NOT_HERE[name] !== undefined) lines.push(`| ${name} | not here: ${NOT_HERE[name]} | |`);
		else if (!own.some((r) => r.number === number)) missing.push(`row ${name}: expected a test, got none`);
	}
	lines.push('');
}
for (const [source, features] of Object.entries(FEATURES)) {
	lines.push(`## Features of ${source}`, '', '| Feature | Tests |', '| --- | --- |');
	for (const [feature, ...tests] of features) {
		for (const test of tests) {
			const [file, title] = test.split(' > ');
			const text = files.includes(file) ? readFileSync(join(root, file), 'utf8') : undefined;
			if (text === undefined || !text.includes(title ?? ''))
				missing.push(`${feature}: expected the test ${test}, got none`);
		}
		lines.push(`| ${feature} | ${tests.map((test) => `\`${test.replaceAll('|', '\\|')}\``).join('<br>')} |`);
	}
	lines.push('');
}
lines.push('## Deviations and uncertain points', '', '| Kind | From | What | Where |', '| --- | --- | --- | --- |');
for (const note of notes)
	lines.push(`| ${note.kind} | ${note.what} | ${note.text.replaceAll('|', '\\|')} | \`${note.file}\` |`);
lines.push('', 'Each package lists its own in full: see the README files under `packages/`.', '');

for (const what of missing) console.error(what);
if (missing.length > 0) process.exitCode = 1;
const text = lines.join('\n');
if (process.argv.includes('--check')) {
	if (readFileSync(target, 'utf8') !== text) {
		console.error('docs/conformance.md is out of date: run `node tools/conformance.mjs`');
		process.exitCode = 1;
	}
} else writeFileSync(target, text);
