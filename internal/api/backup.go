package api

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"signalbox"
)

// BackupType is the media type of a backup.
const BackupType = "application/vnd.signalbox.backup"

type backupInput struct {
	Key   bool `query:"key" doc:"With the key file of the data directory in it. It is given out on the hub's own machine only: over its socket, or by the command line."`
	local bool
}

// Resolve implements huma.Resolver.
func (in *backupInput) Resolve(ctx huma.Context) []error {
	r, _ := humago.Unwrap(ctx)
	in.local = isLocal(r)
	return nil
}

func (s *server) registerBackup() {
	op := operation(http.MethodGet, "/backup", "backup", "hub", "Take a backup of everything in the database",
		"As of one moment, while the hub runs. The answer is a stream of unknown length, checked by a SHA-256 at its end: without that it was broken off and is no backup. "+
			"One backup is taken at a time. «signalbox restore» restores it, into any database that the hub knows.")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "The backup.",
		Content:     map[string]*huma.MediaType{BackupType: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}},
	}}
	busy := &atomic.Bool{}
	register(s, signalbox.ScopeAdmin, op, func(_ context.Context, in *backupInput) (*huma.StreamResponse, error) {
		if in.Key && !in.local {
			return nil, signalbox.Errorf(signalbox.KindForbidden, "key_stays",
				"the key file is given out on the hub's own machine only; take the backup there, or copy the file by another way")
		}
		return &huma.StreamResponse{Body: func(ctx huma.Context) {
			r, w := humago.Unwrap(ctx)
			s.backUp(w, r, busy, in.Key)
		}}, nil
	})
}

// backUp answers with a backup. A fault before its first byte is a problem document; one
// after that breaks the answer off.
func (s *server) backUp(w http.ResponseWriter, r *http.Request, busy *atomic.Bool, key bool) {
	if busy.Swap(true) {
		writeProblem(w, problemOf(r.Context(), s.Logger, signalbox.Errorf(signalbox.KindConflict, "backup_running", "another backup is being taken; one is taken at a time")))
		return
	}
	defer busy.Store(false)
	ctx, done := s.until(r.Context())
	defer done()
	out := &backupWriter{w: w, control: http.NewResponseController(w), made: s.now()}
	mayTakeLong(out.control)
	begun := time.Now()
	size, err := s.Backup(ctx, out, key)
	switch {
	case err == nil:
		s.Logger.Info("a backup was taken", "by", caller(r.Context()).Name, "bytes", size, "with_key", key, "duration", time.Since(begun).Round(time.Millisecond))
	case !out.begun:
		writeProblem(w, problemOf(r.Context(), s.Logger, err))
	default:
		if r.Context().Err() == nil {
			s.Logger.Warn("a backup was broken off", "err", err)
		}
		panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's own way to break an answer off
	}
}

// backupWriter sends a backup; each write has its own time.
type backupWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	made    time.Time
	begun   bool
}

// Write implements io.Writer.
func (b *backupWriter) Write(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		h := b.w.Header()
		h.Set("Content-Type", BackupType)
		h.Set("Content-Disposition", fmt.Sprintf(`attachment; filename="signalbox-%s.backup"`, b.made.UTC().Format("20060102T150405Z")))
		b.w.WriteHeader(http.StatusOK)
	}
	// Inside the process and in tests there are no deadlines; then none is needed.
	_ = b.control.SetWriteDeadline(time.Now().Add(writePatience))
	return b.w.Write(p)
}
