package store

import (
	"context"
	"io/fs"
	"regexp"
	"strings"
	"time"
)

// Numbered and Upserts are the translations of statements.
var (
	Numbered = numbered
	Upserts  = newUpserts().translate
)

// Migration gives the statements of the first migration as the engine of s runs them.
func Migration(s *Store) ([]string, error) {
	w := sqliteWords()
	if e, ok := s.engine.(*server); ok {
		var err error
		if _, w, err = e.d.migrations(context.Background(), e.db); err != nil {
			return nil, err
		}
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	text, err := fs.ReadFile(rendered{files, w}, "00001_ground.sql")
	if err != nil {
		return nil, err
	}
	up, _, _ := strings.Cut(string(text), "-- +goose Down")
	up = regexp.MustCompile(`--[^\n]*`).ReplaceAllString(up, "")
	var all []string
	for part := range strings.SplitSeq(up, ";") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all, nil
}

// AskFor changes for how long a commit asks for its outcome.
func AskFor(s *Store, d time.Duration) {
	if e, ok := s.engine.(*server); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		e.askFor = d
	}
}

// Watch does what the background does from time to time.
func Watch(s *Store) {
	if e, ok := s.engine.(*server); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		e.watch(context.Background())
	}
}
