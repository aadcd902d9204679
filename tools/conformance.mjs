// Writes docs/conformance.md from the tests' names and the sources' comments:
//   node tools/conformance.mjs            writes it
//   node tools/conformance.mjs --check    fails if it is not what it would write
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const target = join(root, 'docs/conformance.md');

const SERIES = {
	G: [
		'Guest side',
		'negotiation and page status of a Linux guest, Linux arch/x86/kernel/kvm.c (v5.16) and the v12 series',
	],
	P: ['Hypercalls, ioctls and the migration MSR', 'derived from Linux arch/x86/kvm (v5.12 to v6.1) and the v12 series'],
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
		for (const [, , quote, series, number, rest] of text.matchAll(
			/\b(it|test)(?:\.\w+)*(?:\([^()]*(?:\[[^\]]*\][^()]*)?\))?\((['"`])([GP])-?(\d+): (.*?)\2/g,
		)) {
			void quote;
			rows.push({ series, number: Number(number), text: rest, file });
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
for (const [series, [title, source]] of Object.entries(SERIES)) {
	lines.push(
		`## ${title} (${series})`,
		'',
		`Source: ${source}.`,
		'',
		'| Row | Behaviour | Test |',
		'| --- | --- | --- |',
	);
	for (const row of rows.filter((r) => r.series === series)) {
		lines.push(`| ${series}-${row.number} | ${row.text.replaceAll('|', '\\|')} | \`${row.file}\` |`);
	}
	lines.push('');
}
lines.push('## Deviations and uncertain points', '', '| Kind | From | What | Where |', '| --- | --- | --- | --- |');
for (const note of notes)
	lines.push(`| ${note.kind} | ${note.what} | ${note.text.replaceAll('|', '\\|')} | \`${note.file}\` |`);
lines.push('', 'Each package lists its own in full: see the README files under `packages/`.', '');

const text = lines.join('\n');
if (process.argv.includes('--check')) {
	if (readFileSync(target, 'utf8') !== text) {
		console.error('docs/conformance.md is out of date: run `node tools/conformance.mjs`');
		process.exitCode = 1;
	}
} else writeFileSync(target, text);
