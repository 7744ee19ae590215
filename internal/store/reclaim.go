package store

import (
	"context"
	"fmt"
	"time"
)

const (
	// reclaimPages is how many pages are given back at once, with the writer held up;
	// reclaimPause lies between.
	reclaimPages = 256
	reclaimPause = 5 * time.Millisecond
)

// Reclaim gives the space of what was deleted back to the system, little by little, and says
// how many bytes it was. Servers keep such space for what comes next, and see to it themselves.
func (s *Store) Reclaim(ctx context.Context) (bytes int64, err error) {
	if _, ok := s.engine.(*lite); !ok {
		return 0, nil
	}
	for {
		var free int64
		if err := s.read.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&free); err != nil {
			return bytes, fmt.Errorf("look for space to give back: %w", err)
		}
		if free < reclaimPages {
			return bytes, nil // the rest is filled again soon
		}
		if err := s.vacuum(ctx); err != nil {
			return bytes, fmt.Errorf("give space back: %w", err)
		}
		bytes += reclaimPages * pageBytes
		select {
		case <-ctx.Done():
			return bytes, ctx.Err()
		case <-time.After(reclaimPause):
		}
	}
}

func (s *Store) vacuum(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, err := s.write.QueryContext(ctx, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", reclaimPages))
	if err != nil {
		return s.explain(err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	for rows.Next() {                   // a row a page: SQLite works while it is read
	}
	s.engine.(*lite).written.Store(true) //nolint:forcetypeassert // Reclaim has looked
	return s.explain(rows.Err())
}
