package api

import (
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"signalbox"
)

// DefaultReadMemory is Config.ReadMemory when nothing is said, in bytes.
const DefaultReadMemory = 192 << 20

// MinReadMemory is what the largest answer takes, in bytes.
const MinReadMemory = tableMemory

// What an answer over many devices counts for, in bytes, whatever its length. It has a slice of
// history (see history.ScanTime), and a table its columns or a row group as well. Of 600,000 short
// messages an export was seen to take 47 MiB as NDJSON, 71 as CSV and 110 as Parquet, with what
// the garbage collector had not taken yet.
const (
	scanMemory  = 64 << 20
	tableMemory = 128 << 20
)

// budget is the memory that all answers over many devices share.
type budget struct {
	total   int64
	free    *semaphore.Weighted
	refused *atomic.Int64
}

func newBudget(total int64, refused *atomic.Int64) *budget {
	if refused == nil {
		refused = new(atomic.Int64)
	}
	return &budget{total: total, free: semaphore.NewWeighted(total), refused: refused}
}

// take takes bytes until give; without so many left KindLimited with the code.
func (b *budget) take(bytes int64, code string) (give func(), err error) {
	if !b.free.TryAcquire(bytes) {
		b.refused.Add(1)
		return nil, signalbox.Errorf(signalbox.KindLimited, code,
			"scans and exports of telemetry share %d MiB of memory, and those under way leave less than the %d MiB that this one counts for; try again when one has ended", b.total>>20, bytes>>20)
	}
	return func() { b.free.Release(bytes) }, nil
}
