import { createSavePacker } from '../codec/libvirt/body.js';
import { createSaveImage, encodeSaveImage } from '../codec/libvirt/header.js';
import type { ByteSink } from '../ports.js';
import { ImageError } from './error.js';
import type { WriteImageOptions } from './write-options.js';

/** A sink that packs, and must be told the end. */
export interface PackedSink extends ByteSink {
	end(): Promise<void>;
}

/** Puts libvirt's header in front of a stream and packs it. libvirt src/qemu/qemu_saveimage.c. */
export function createPackedSink(sink: ByteSink, libvirt: NonNullable<WriteImageOptions['libvirt']>): PackedSink {
	const { xml, cookie, running, format = 'raw' } = libvirt;
	if (format === 'sparse') {
		throw new ImageError(
			'unsupported',
			'libvirt: expected raw, gzip or zstd, got sparse; write a mapped-ram file instead',
		);
	}
	const out: Uint8Array[] = [];
	// Compressors reuse their buffers; raw pieces are the caller's chunk, valid until the promise resolves.
	const packer = createSavePacker(format, (data) => out.push(format === 'raw' ? data : data.slice()));
	out.push(
		encodeSaveImage(
			createSaveImage({
				xml,
				format,
				...(cookie === undefined ? {} : { cookie }),
				...(running === undefined ? {} : { running }),
			}),
		),
	);
	// In order, whatever the caller awaits.
	let tail: Promise<void> = Promise.resolve();
	const drain = (): Promise<void> => {
		const pieces = out.splice(0);
		tail = tail.then(async () => {
			for (const piece of pieces) await sink.write(piece);
		});
		return tail;
	};
	return {
		write(chunk) {
			packer.push(chunk);
			return drain();
		},
		end() {
			packer.end();
			return drain();
		},
	};
}
