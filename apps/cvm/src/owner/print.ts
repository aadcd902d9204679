import pc from 'picocolors';

/** Writes a result: the document with `--json`, else lines for people. */
export function print(json: boolean | undefined, document: object, lines: readonly string[]): void {
	const text = json ? JSON.stringify(document, null, 2) : lines.join('\n');
	process.stdout.write(`${text}\n`);
}

/** A line that says whether something holds. */
export function tick(ok: boolean, text: string, detail = ''): string {
	const colours = pc.createColors(process.stdout.isTTY === true);
	const mark = ok ? colours.green('✓') : colours.red('✗');
	return `${mark} ${text}${detail ? colours.dim(`  ${detail}`) : ''}`;
}
