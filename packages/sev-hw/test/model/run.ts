import { COMMANDS, type CommandName, type CommandRule } from '../../src/abi/commands.js';
import { GuestState } from '../../src/abi/states.js';
import { measurement } from '../../src/channel/measurement.js';
import { openPacket } from '../../src/channel/packet.js';
import { BUFFER_AT, provider } from '../rig.js';
import { type Dice, dice } from './dice.js';
import { applyFailure, applySuccess, isSecret, type Range, writtenBy } from './effects.js';
import { type Call, callOf, pickName } from './fields.js';
import { predict } from './guest-checks.js';
import { big, num } from './predict.js';
import { createWorld, type Fields, type World } from './world.js';

const BUFFER_BYTES = 128;
/** DRAM outside these is compared now and then, inside them after every command. */
const BUSY = [0xc0000, 0x150000] as const;
const CBIT = 1n << 51n;

/** What a run proved of each command. */
export interface Tally {
	readonly succeeded: Map<CommandName, number>;
	readonly statuses: Set<string>;
	/** Commands whose answer the model knew exactly. */
	known: number;
}

class Disagreement extends Error {
	override readonly name = 'Disagreement';
}
const fail = (what: string, expected: unknown, got: unknown): never => {
	throw new Disagreement(`${what}: expected ${String(expected)}, got ${String(got)}`);
};
const agree = (what: string, got: unknown, expected: unknown): void => {
	if (got !== expected) fail(what, expected, got);
};

const asText = (_: string, value: unknown): unknown =>
	value instanceof Uint8Array ? Buffer.from(value).toString('latin1') : typeof value === 'bigint' ? `${value}` : value;

/** Firmware memory that a refusal must leave alone, but for what identity and storage are: those are compared by identity. */
function firmwareText({ rig: { platform } }: World): string {
	const guests = [...platform.guests.values()].map(({ digest, ...guest }) => [
		digest !== undefined,
		{ ...guest, channel: { ...guest.channel, cipher: undefined } },
		platform.guests.stateOf(guest.handle),
	]);
	const { state, config, memory, vmsaSlots, version } = platform;
	return JSON.stringify([state, config, memory.reserved, vmsaSlots.count, version, guests], asText);
}

/** Keys that no memory may hold, in either byte order. */
function secretsOf({ rig: { platform } }: World): Buffer[] {
	const { identity } = platform;
	const privates = [identity?.oca, identity?.pek, identity?.pdh, identity?.cek].flatMap((key) =>
		key?.privateKey === undefined ? [] : [Buffer.from(key.privateKey), Buffer.from(key.privateKey).reverse()],
	);
	const guests = [...platform.guests.values()].flatMap(({ vek, oek, channel }) => {
		const { tek, tik, masterSecret } = channel;
		// Without a session these are zero, and no secret.
		return [vek, oek, ...(tek.some((b) => b !== 0) ? [tek, tik, masterSecret] : [])].map((key) => Buffer.from(key));
	});
	return [...privates, ...guests];
}

function expectNoSecret(w: World, memory: Buffer, where: string): void {
	if (memory.includes(w.canary)) fail(where, 'no plaintext of a guest', 'the canary');
	if (secretsOf(w).some((secret) => memory.includes(secret))) fail(where, 'no key', 'one');
}

/** Puts plaintext where LAUNCH_UPDATE_* will encrypt it; the model hashes it as the firmware does. */
function layPlaintext(w: World, d: Dice, { name, fields }: Call, allowed: readonly string[]): void {
	if ((name !== 'LAUNCH_UPDATE_DATA' && name !== 'LAUNCH_UPDATE_VMSA') || allowed.join() !== 'SUCCESS') return;
	const guest = w.model.guests.get(num(fields, 'handle'));
	const length = num(fields, 'length');
	const plaintext = new Uint8Array(length).fill(d.below(256));
	if (guest !== undefined && isSecret(guest)) plaintext.set(w.canary);
	w.poke(big(fields, 'paddr') & ~CBIT, plaintext);
	guest?.digest.update(plaintext);
}

/** DRAM is as it was, but for what the command may write; what it wrote holds no secret. */
function settle(w: World, ranges: readonly Range[], full: boolean): void {
	const { shadow, rig } = w;
	const { dram } = rig.machine;
	for (const [at, bytes] of ranges) {
		const [from, to] = [Number(at), Number(at) + bytes];
		const memory = Buffer.from(dram.buffer, dram.byteOffset + from, to - from);
		shadow.set(memory, from);
		expectNoSecret(w, memory, `DRAM at 0x${from.toString(16)}`);
	}
	shadow.set(dram.subarray(BUFFER_AT, BUFFER_AT + BUFFER_BYTES), BUFFER_AT);
	const [from, to] = full ? [0, dram.length] : BUSY;
	if (!shadow.subarray(from, to).equals(dram.subarray(from, to))) fail('DRAM', 'no change elsewhere', 'one');
}

function compareStates({ rig: { platform }, model }: World): void {
	agree('platform state', platform.state, model.platform);
	agree('owner', platform.identity?.owner ?? 'self', model.external ? 'external' : 'self');
	agree('guests', platform.guests.count, model.guests.size);
	for (const { handle, state, asid, policy, channel } of model.guests.values()) {
		const real = platform.guests.get(handle);
		agree(`state of guest ${handle}`, platform.guests.stateOf(handle), state);
		agree(`ASID of guest ${handle}`, real?.asid, asid);
		agree(`policy of guest ${handle}`, real?.policy, policy);
		agree(
			`open channel of guest ${handle}`,
			real?.channel.tek.some((b) => b !== 0),
			channel !== 'zero',
		);
		agree(`running digest of guest ${handle}`, real?.digest !== undefined, state === GuestState.LUPDATE);
	}
}

/** Answers whose contents the model knows. */
function compareOutput(w: World, { name, fields }: Call, out: Fields): void {
	const { model, rig } = w;
	const guest = model.guests.get(num(fields, 'handle'));
	const at = (key: string, length: number) => new Uint8Array(rig.at(big(fields, key) & ~CBIT, length));
	if (name === 'PLATFORM_STATUS') {
		agree('STATE', out['state'], model.platform);
		agree('GUEST_COUNT', out['guestCount'], model.guests.size);
		agree('OWNER', out['owner'], Number(model.external));
		agree('CONFIG', out['config'], Number(model.es));
		agree('BUILD', out['build'], model.build);
	}
	if (name === 'GUEST_STATUS') {
		agree('STATE', out['state'], guest?.state ?? GuestState.UNINIT);
		agree('POLICY', out['policy'], guest?.policy ?? num(fields, 'policy'));
		agree('ASID', out['asid'], guest?.asid ?? num(fields, 'asid'));
	}
	if (guest === undefined) return;
	if (name === 'LAUNCH_MEASURE' && (guest.keys !== undefined || guest.channel === 'zero')) {
		const tik = guest.keys?.tik ?? new Uint8Array(16);
		const { version } = rig.platform;
		const blob = at('paddr', 48);
		const { policy, launchDigest: digest } = guest;
		const expected = measurement(provider, { tik, version, policy, digest, mnonce: blob.slice(32) });
		agree('MEASURE', Buffer.from(blob.subarray(0, 32)).toString('hex'), Buffer.from(expected).toString('hex'));
	}
	if (name === 'ATTESTATION') {
		const hex = (data: Uint8Array) => Buffer.from(data).toString('hex');
		agree('LAUNCH_DIGEST', hex(at('paddr', 48).subarray(16)), hex(guest.launchDigest));
	}
	if (name === 'SEND_UPDATE_DATA' && guest.keys !== undefined && out['hdrPaddr'] !== out['transPaddr']) {
		const context = 2;
		const payload = at('transPaddr', num(fields, 'guestLen'));
		const packet = { context, header: at('hdrPaddr', 52), guestLength: payload.length, payload };
		const last = model.packets.at(-1);
		if (last !== undefined && Buffer.from(last.payload).equals(payload))
			agree('packet', openPacket(provider, guest.keys, packet).status, 0);
	}
}

/** A command buffer comes back as it was, unless its class says otherwise. */
function compareBuffer({ rig }: World, name: CommandName, before: Uint8Array, status: string): void {
	const { copyBack }: CommandRule = COMMANDS[name];
	const back = copyBack !== 'in' && copyBack !== 'none' && status === 'SUCCESS';
	const query = copyBack === 'query' && status === 'INVALID_LENGTH';
	if (back || query) return;
	if (!Buffer.from(before).equals(rig.at(BUFFER_AT, before.length))) fail('command buffer', 'no change', 'one');
}

interface Codec {
	readonly buffer?: { encode(value: Fields): Uint8Array };
}

function step(w: World, d: Dice, index: number, tally: Tally, note: (call: Call) => void): string {
	const { rig, model } = w;
	if (d.once(25)) {
		rig.machine.wbinvd();
		model.wbinvd = true;
	}
	const call = callOf({ w, d }, pickName({ w, d }));
	note(call);
	const { name, fields } = call;
	const allowed = predict(w, { m: model, ...call, f: fields });
	layPlaintext(w, d, call, allowed);
	const buffer = (COMMANDS[name] as Codec).buffer?.encode(fields) ?? new Uint8Array(0);
	const thorough = index % 500 === 0;
	const before = { text: firmwareText(w), nv: rig.nv.content, identity: rig.platform.identity };
	const snapshot = thorough ? rig.snapshot({ dram: false }) : '';

	const { status, out } = rig.command(name, fields);
	if (!allowed.includes(status)) fail('status', allowed.join(' or '), status);
	tally.statuses.add(status);
	if (allowed.length === 1) tally.known++;
	compareBuffer(w, name, buffer, status);
	const started = (name === 'INIT' || name === 'INIT_EX') && model.platform === 0;
	if (status !== 'SUCCESS' && !started) {
		agree('firmware memory', firmwareText(w), before.text);
		if (rig.nv.content !== before.nv) fail('flash', 'no change', 'one');
		if (rig.platform.identity !== before.identity) fail('identity', 'no change', 'one');
		if (thorough && rig.snapshot({ dram: false }) !== snapshot) fail('snapshot', 'no change', 'one');
	}
	settle(w, writtenBy(w, call, status), thorough);
	if (status === 'SUCCESS') {
		tally.succeeded.set(name, (tally.succeeded.get(name) ?? 0) + 1);
		applySuccess(w, call, out as Fields);
		if (name !== 'DECOMMISSION') compareOutput(w, call, out as Fields);
	} else applyFailure(w, call, status);
	compareStates(w);
	expectNoSecret(w, Buffer.from(rig.at(BUFFER_AT, BUFFER_BYTES)), 'command buffer');
	if (thorough) expectNoSecret(w, Buffer.from(rig.machine.dram), 'DRAM');
	return `${name}: ${status}`;
}

export const newTally = (): Tally => ({ succeeded: new Map(), statuses: new Set(), known: 0 });

/**
 * Gives `count` random commands to a new machine and to the model of it.
 *
 * @returns each command with its answer
 * @throws Error with seed, index and command where they disagree; the same seed gives the same commands
 */
export function runModel(seed: string, count: number, parts: Parameters<typeof createWorld>[1], tally: Tally) {
	const answers: string[] = [];
	const w = createWorld(seed, parts);
	const d = dice(seed);
	let last: Call | undefined;
	for (let index = 0; index < count; index++) {
		try {
			const note = (call: Call) => {
				last = call;
			};
			answers.push(step(w, d, index, tally, note));
		} catch (error) {
			const shown = JSON.stringify(last?.fields, (_, v) => (typeof v === 'bigint' ? `0x${v.toString(16)}` : v));
			const how = `CVM_SEED='${seed}', command ${index}: ${last?.name} ${shown}`;
			throw new Error(`${how}: ${(error as Error).message}`, { cause: error });
		}
	}
	return answers;
}
