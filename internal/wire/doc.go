// Package wire writes and reads the small formats that several packages share: the frames of
// devices, fields of telemetry by their dotted path, the mark of what is replayed, and JSON as the Python servers of the two
// original systems printed it, byte for byte.
//
// Contract. Functions are pure: they keep nothing, start nothing, and may be called from
// any goroutine. Append functions grow the slice they are given and return it.
package wire
