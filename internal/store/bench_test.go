package store_test

import (
	"fmt"
	"testing"

	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// BenchmarkCommit is the time from the beginning of a transaction of one row to its being
// on disk.
func BenchmarkCommit(b *testing.B) {
	for _, kind := range append([]storetest.Kind{storetest.SQLite}, storetest.Servers()...) {
		for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/%dKiB", kind, size>>10), func(b *testing.B) {
				db := storetest.New(b, kind)
				if kind != storetest.SQLite {
					db = storetest.Start(b, kind, storetest.Durable(kind)...).NewDatabase(b)
				}
				st := db.Open(b).Store
				body := noise(size)
				b.SetBytes(int64(size))
				id := 0
				for b.Loop() {
					id++
					if err := st.Update(b.Context(), func(tx *store.Tx) error { return insertRow(b.Context(), tx, id, body) }); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkRead is the time of one small read.
func BenchmarkRead(b *testing.B) {
	for _, kind := range append([]storetest.Kind{storetest.SQLite}, storetest.Servers()...) {
		b.Run(string(kind), func(b *testing.B) {
			st := storetest.New(b, kind).Open(b).Store
			for b.Loop() {
				if _, err := st.Meta(b.Context(), "colour"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
