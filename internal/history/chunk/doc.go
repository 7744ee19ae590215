// Package chunk is the form in which telemetry history is kept: the messages of a device in
// columns, compressed, and given back byte for byte.
//
// # Contract
//
// The functions are pure: bytes in, bytes out; nothing is stored, started or logged.
//
//   - Loss. What went in comes out: every body exactly as the device sent it, white space
//     and the spelling of numbers included; also bodies that are no JSON.
//   - Imports. Each row keeps whether it was imported (Row.Imported), through runs and chunks and
//     when these are merged. A chunk without such a row is no longer for it.
//   - Order. A Run keeps its rows as they were appended. A chunk holds them by (time,
//     position).
//   - Concurrency. Shapes serves any number of goroutines. Run, Table, Reader, Cursor and
//     Batch each belong to one goroutine at a time; a View of a Run may be read while the Run
//     grows.
//   - Limits. A chunk has at most MaxRows rows, 64 MiB of columns before compression and 4 Mi
//     values; Encode gives ErrTooLarge beyond, and fewer rows do. A reader allocates no more
//     than about 200 MB whatever the bytes are, and keeps up to 16 MiB of a kind for the next
//     chunk.
//   - Faults. A chunk carries a checksum. Every error about bytes that do not decode wraps
//     ErrBroken; no bytes make a function panic.
//
// # Shapes
//
// A shape is what is left of an object when its leaves are cut out: strings, numbers, true,
// false, null and whole arrays. Objects inside of it are part of the shape. Devices send few
// shapes, so a table that all share holds them, and chunks name them by number. The caller
// stores what Fresh gives before, or in one transaction with, the first chunk that uses it,
// and puts it back with Load at the next start.
//
// A body is kept raw, without a shape, when it is no JSON object, longer than MaxShaped,
// nested deeper than 32 levels of objects, or 32 levels inside of an array, or has more than
// MaxLeaves leaves or 8 KiB besides them; when its shape is seen for the first time; or when
// the table is full. Everything works with raw
// bodies, at more bytes and more time.
//
// # The run
//
// A Run gathers rows in memory until there are enough for a chunk. Each row is one byte of
// flags, the differences in position and time, a bit for each leaf that differs from the last
// row of its shape, and those leaves: numbers as differences, others as text. That is about 10
// bytes for a message of 100. The form is not stored anywhere and may change.
//
// # Reading
//
// A Reader has a chunk as a whole, or a run: fields by column, rows in any order. A Cursor goes
// through one once and keeps little between: where it stands in each column. Many cursors may
// add to one Batch; rows with the same body share it there.
//
// # Format of a shape, version 1
//
//	version  byte     1
//	leaves   uvarint
//	leaves+1 literals, each: length uvarint, then its bytes
//
// # Format of a chunk, versions 1 and 2
//
// Version 2 is that of chunks with rows that were imported; all others are in version 1. They
// differ in one column.
//
// uvarint and varint are the variable-length integers of package encoding/binary: seven bits a
// byte, the least first; signed ones zigzag.
//
//	version  byte     1 or 2
//	checksum 4 bytes  CRC-32C of the version and of all that follows, little endian
//	rows     uvarint  N
//	t0       varint   time of the first row, Unix µs
//	t1−t0    uvarint  t1: time of the last row
//	p0       uvarint  least position
//	p1−p0    uvarint  p1: greatest position
//	raw      uvarint  length of all bodies
//	shapes   uvarint, then the number of each (uvarint); 0 is raw
//	[sums    uvarint length, then summaries; only when N ≥ 64]
//	method   byte     0: columns follow; 1: uvarint length of the columns, then one zstd frame
//	                  (RFC 8878) of them
//
// Columns are sections, one after another, each after its length (uvarint):
//
//   - with several shapes: for each row the index of its shape in the list, as numbers
//   - times, less t0, as numbers
//   - received less time, as numbers; nothing when all are 0
//   - positions, less p0, as numbers
//   - in version 2: for each row 1 if it was imported, or 0, as numbers
//   - for each shape, in the order of the list: for each of its leaves a column, with a value
//     for each row of that shape. Raw has one: the bodies
//
// Numbers, for a count that is known:
//
//	way      byte     bits 0–1: 0 plain, 1 differences, 2 differences of differences, 3 line;
//	                  bit 2: zigzag; bit 3: excess
//	width    byte     0 to 56, or 64
//	first    varint   ways 1 to 3: the first number
//	second   varint   way 2: the second less the first; way 3: the last less the first
//	base     varint
//	[excess  uvarint count, then for each: how many numbers lie between it and the one before
//	                  (uvarint), its bits above the width (uvarint)]
//	bits     width bits a number, from the least bit of the first byte on
//
// What is packed are all numbers (way 0), the differences (way 1, one number fewer), the
// differences of these (way 2, two fewer), or, for all but the first and the last, the distance
// from first + ⌊i·slope/65536⌋ with slope = rise·65536/(N−1) rounded towards 0 (way 3); of each
// its distance from base, zigzag if the bit says so, modulo 2^64.
//
// A column begins with a byte for its kind (bits 0–3; bit 4: the decimals stand in double
// quotes):
//
//	0  const    the one token that all rows have
//	1  fixed    scale byte; mantissas as numbers
//	2  short    the same; zeros at the end of the fraction are not written, nor the point
//	3  short    the same, but one digit stays behind the point
//	4  mixed    scale byte; section: the scale of each as numbers; mantissas as numbers
//	5  dict     uvarint count; tokens, each after its length (uvarint); indexes as numbers
//	6  tokens   section: lengths as numbers; all tokens
//	7  split    section: 0 or 1 for each row as numbers; section: a column of those with 0;
//	            a column of those with 1
//
// Mantissas stand at the column's scale: 21.5 at scale 2 is 2150. A decimal is a JSON number
// without an exponent, of at most 18 digits and a mantissa below 10^17, and not «-0»; mantissa
// and scale give its spelling back. Every other value is a token, kept as text.
//
// Summaries, for each shape in the order of the list: uvarint count, then for each leaf with
// numbers:
//
//	leaf     uvarint  how many leaves lie between it and the one before
//	flags    byte     bits 0–4: scale, or 31: floats, 30: nothing follows the counts;
//	                  bit 5: one value only; bit 6: count follows; bit 7: row follows
//	[count   uvarint  how many numbers; N when it is absent]
//	[row     uvarint, uvarint: how many rows and µs before the last row the last number is]
//	least    varint
//	most−least, sum−count·least, last−least, uvarint each, unless there is one value only
//
// With floats, 8 bytes each, little endian: least, sum and, unless there is one value only,
// most and last.
package chunk
