// What a store holds and what is said to it, apart from the bytes that say it (frames.ts).

/** What the store holds under a key. */
export type StoreValue = Uint8Array | string;

/** One request or reply; what `number`, `keys` and `values` mean depends on the code. */
export interface Message {
  /** A reply carries the id of its request. */
  readonly id: number;
  /** Operation of a request, status of a reply. */
  readonly code: number;
  readonly number: number;
  readonly keys: readonly string[];
  readonly values: readonly (StoreValue | null)[];
}
