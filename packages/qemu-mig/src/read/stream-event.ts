import type {
	BitmapSlot,
	ByteRange,
	Configuration,
	HostRegionList,
	PageEncoding,
	Place,
	RecordPlace,
	SectionInfo,
	StreamBlock,
} from '../events.js';
import type { SessionPrefix, SharedRegion } from '../ports.js';
import type { Detection } from './detect.js';

/** A RAM record of a page; `address` is the byte offset inside the block. */
interface PageEvent {
	readonly block: string;
	readonly address: number;
	readonly at: RecordPlace;
}

/** What `readStream` yields: the callbacks of {@link StreamHandler} by name, with their arguments, and `end`. */
export type StreamEvent =
	/** First, if the dialect was to be found out. */
	| { readonly type: 'dialect'; readonly detection: Detection }
	| { readonly type: 'header'; readonly version: number; readonly at: Place }
	| { readonly type: 'configuration'; readonly configuration: Configuration; readonly at: Place }
	| { readonly type: 'sectionBegin' | 'sectionEnd'; readonly section: SectionInfo; readonly at: Place }
	| {
			readonly type: 'blockList' | 'mappedListEnd';
			readonly blocks: readonly StreamBlock[];
			readonly total: number;
			readonly at: RecordPlace;
	  }
	| ({ readonly type: 'rawPage'; readonly page: Uint8Array } & PageEvent)
	| ({ readonly type: 'zeroPage'; readonly fill: number } & PageEvent)
	| ({ readonly type: 'encodedPage'; readonly kind: PageEncoding; readonly data: Uint8Array } & PageEvent)
	| ({
			readonly type: 'encryptedPage';
			readonly header: Uint8Array;
			readonly payload: Uint8Array;
			readonly prefix: SessionPrefix | undefined;
	  } & PageEvent)
	| ({
			readonly type: 'migrationHelperPage';
			readonly header: Uint8Array;
			readonly page: Uint8Array;
			readonly subtype: 4 | undefined;
	  } & PageEvent)
	| ({
			readonly type: 'sharedRegions';
			readonly regions: readonly SharedRegion[];
			readonly terminator: number;
	  } & PageEvent)
	| ({ readonly type: 'hostRegions'; readonly list: HostRegionList } & PageEvent)
	| ({ readonly type: 'encryptedBitmap'; readonly slots: readonly BitmapSlot[] } & PageEvent)
	| { readonly type: 'multifdFlush' | 'endOfRecords'; readonly address: number; readonly at: RecordPlace }
	| { readonly type: 'mappedListBegin'; readonly total: number; readonly at: RecordPlace }
	| { readonly type: 'mappedBlock'; readonly block: StreamBlock; readonly bitmap: Uint8Array; readonly at: RecordPlace }
	| { readonly type: 'mappedGap'; readonly data: Uint8Array; readonly at: RecordPlace }
	| ({ readonly type: 'mappedPage'; readonly page: Uint8Array; readonly present: boolean } & PageEvent)
	| { readonly type: 'opaqueBody'; readonly section: SectionInfo; readonly body: Uint8Array; readonly at: Place }
	| { readonly type: 'command'; readonly command: number; readonly data: Uint8Array; readonly at: Place }
	| { readonly type: 'packageBegin'; readonly length: number; readonly at: Place }
	| { readonly type: 'packageEnd' | 'eof'; readonly at: Place }
	| { readonly type: 'ramDiscard'; readonly block: string; readonly ranges: readonly ByteRange[]; readonly at: Place }
	| { readonly type: 'vmDescription'; readonly json: Uint8Array; readonly at: Place }
	| { readonly type: 'trailing'; readonly data: Uint8Array; readonly at: Place }
	/** Last, if the stream is whole. */
	| { readonly type: 'end'; readonly description: boolean; readonly trailing: number };
