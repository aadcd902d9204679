import { SECRET_AREA } from '../../src/image/image.js';
import { createHelperCore } from '../../src/session/index.js';
import { secretPage } from '../owner-secret.js';
import type { MakeCore } from './machine.js';
import { Rules, type World } from './world.js';

const [P, Q, R, V] = [0x1000000, 0x1001000, 0x1080000, 0x1002000] as const;
const A = { name: 'A', role: 'idle' } as const;
const B = { name: 'B', role: 'empty' } as const;
const C = { name: 'C', role: 'empty' } as const;
const once = { hellos: 1, accepts: 1, saves: 1, epochs: 0, writes: 0, shares: 0 } as const;
const pair = { machines: [A, B], pages: [P], streams: 1 } as const;

/**
 * Worlds that are explored to their end. In all of them hosts call any command at any time, and the network drops, repeats,
 * reorders and keeps everything: each message is given to any helper at any time, any number of times, or never.
 */
export const WORLDS: readonly World[] = [
	{ name: 'a guest that writes, two epochs', ...pair, limits: { ...once, saves: 2, epochs: 1, writes: 2 } },
	{ name: 'two pages', ...pair, pages: [P, Q], limits: { ...once, saves: 2, writes: 1 } },
	{ name: 'two attempts', ...pair, limits: { ...once, hellos: 2, accepts: 2, writes: 1 } },
	{ name: 'two targets, two attempts', ...pair, machines: [A, B, C], limits: { ...once, hellos: 2 } },
	{ name: 'a chain, A to B to C', ...pair, machines: [A, B, C], limits: { ...once, writes: 1 } },
	{ name: 'two streams', ...pair, pages: [P, R], streams: 2, limits: { ...once, saves: 2, epochs: 1, writes: 1 } },
	{
		name: 'long work in slices, commands in between',
		...pair,
		pages: [P, R],
		limits: { ...once, saves: 2, writes: 1 },
		inSlices: true,
	},
	{ name: 'a page that changes status', ...pair, pages: [P, Q], limits: { ...once, saves: 2, shares: 1 } },
	{ name: 'SEV-ES, a vCPU’s state', ...pair, limits: { ...once, writes: 1 }, saveAreas: [V] },
	{
		name: 'any message into any command, altered ones too',
		...pair,
		limits: { ...once, saves: 2, epochs: 1, writes: 1 },
		anyInput: true,
	},
];

/** Larger ones, for a run that may take minutes. */
export const LARGE_WORLDS: readonly World[] = [
	{ name: 'two pages, three epochs', ...pair, pages: [P, Q], limits: { ...once, saves: 4, epochs: 2, writes: 2 } },
	{
		name: 'two pages, two attempts',
		...pair,
		pages: [P, Q],
		limits: { ...once, hellos: 2, accepts: 2, saves: 2, writes: 1 },
	},
	{
		name: 'two targets, two attempts, a guest that writes',
		...pair,
		machines: [A, B, C],
		limits: { ...once, hellos: 2, writes: 1 },
	},
	{
		name: 'two attempts, any message into any command',
		...pair,
		limits: { ...once, hellos: 2, accepts: 2, writes: 1 },
		anyInput: true,
	},
	{
		name: 'three pages, two streams',
		...pair,
		pages: [P, Q, R],
		streams: 2,
		limits: { ...once, saves: 3, epochs: 1, writes: 1 },
	},
];

/** The rules of a world of real helper cores, each with the same owner's secret. */
export const rulesOf = (world: World, makeCore: MakeCore = createHelperCore): Rules =>
	new Rules(world, makeCore, (write) => write(SECRET_AREA.base, secretPage({})));
