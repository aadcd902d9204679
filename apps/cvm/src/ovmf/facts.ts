import { nodeProvider } from '@cvm/crypto/node';
import {
	buildHashTable,
	type DirectBoot,
	type DiscoveredHelper,
	directBootHashes,
	discoverHelper,
	type FirmwareBlocks,
	type FirmwareVolume,
	findMigrationBlock,
	type HashTablePlace,
	hashPage,
	hashTablePlace,
	type MigrationBlockFound,
	type ResetVector,
	readFirmwareBlocks,
	readResetVector,
	readVolumes,
} from '@cvm/ovmf-mh';
import { launchDigest } from '@cvm/sev-hw/owner';
import { warningsOf } from './warnings.js';

/** What is known of an image. */
export interface ImageFacts {
	/** In bytes. */
	readonly size: number;
	readonly vector: ResetVector | undefined;
	readonly blocks: FirmwareBlocks;
	/** The migration handler's table entry, in whichever form. */
	readonly migration: MigrationBlockFound;
	readonly helper: DiscoveredHelper;
	readonly volumes: readonly FirmwareVolume[];
	/** Whether it holds variables and no code. */
	readonly isVariableStore: boolean;
	readonly launch: { readonly digest: Uint8Array };
	readonly boot?: BootFacts;
	readonly warnings: readonly string[];
}

/** What measured direct boot adds. */
export interface BootFacts {
	readonly hashes: ReturnType<typeof directBootHashes>;
	readonly table: Uint8Array;
	readonly place: HashTablePlace;
	/** Of image and table; absent if QEMU would not start the guest. */
	readonly digest?: Uint8Array;
	/** SHA-256 of the page that SEV-SNP measures, if the image has a section for it. */
	readonly page?: { readonly gpa: number; readonly sha256: Uint8Array };
}

/** What a section of the SEV metadata is for that holds the hashes. */
const KERNEL_HASHES = 0x10;
const PAGE = 4096;

export function factsOf(image: Uint8Array, boot?: DirectBoot): ImageFacts {
	const blocks = readFirmwareBlocks(image);
	const vector = readResetVector(image);
	const volumes = readVolumes(image);
	const isErased = vector?.kind === 'erased' && !blocks.table.present && image.subarray(-48).every((b) => b === 0xff);
	const facts = {
		size: image.length,
		vector,
		blocks,
		migration: findMigrationBlock(image, blocks.table),
		helper: discoverHelper(image),
		volumes,
		isVariableStore: isErased && volumes.length > 0 && volumes.every(({ kind }) => kind === 'variables'),
		launch: { digest: launchDigest(nodeProvider, [image]) },
		...(boot && { boot: bootFacts(image, blocks, boot) }),
	};
	return { ...facts, warnings: warningsOf(facts) };
}

function bootFacts(image: Uint8Array, blocks: FirmwareBlocks, boot: DirectBoot): BootFacts {
	const hashes = directBootHashes(nodeProvider, boot);
	const table = buildHashTable(hashes);
	const place = hashTablePlace(blocks);
	if (!place.ok) return { hashes, table, place };
	const { base } = place.area;
	const section = blocks.sevSections?.find(({ type }) => type === KERNEL_HASHES);
	const fits = (base % PAGE) + table.length <= PAGE;
	return {
		hashes,
		table,
		place,
		digest: launchDigest(nodeProvider, [image, table]),
		...(section &&
			fits && { page: { gpa: section.gpa, sha256: nodeProvider.digest('sha256', hashPage(table, base)) } }),
	};
}
