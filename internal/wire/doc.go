// Package wire writes and reads the small formats that several doors share: JSON as the
// Python servers of the two original systems printed it, byte for byte.
//
// Contract. Functions are pure: they keep nothing, start nothing, and may be called from
// any goroutine. Append functions grow the slice they are given and return it.
package wire
