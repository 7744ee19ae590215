package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

// historyJob is what a child with the history engine is to do.
type historyJob struct {
	Job string `json:"job"` // see RunHistoryEngine
	// Dir is the directory of the database; Store and Password say where it is if not there.
	Dir, Store string
	Devices    int           `json:"devices"`
	Messages   int           `json:"messages"`
	Limit      time.Duration `json:"limit"` // for feeding and for each question
	Past       past          `json:"past"`  // of the jobs about a month of history
	Seed       uint64        `json:"seed"`
	Churn      churn         `json:"churn"`
}

// historyLine is a line of what the child says.
type historyLine struct {
	Progress string   `json:"progress,omitempty"`
	Acked    int64    `json:"acked,omitempty"`
	Cut      int64    `json:"cut,omitempty"`
	Chunks   int64    `json:"chunks,omitempty"`
	Rows     []Row    `json:"rows,omitempty"`
	Notes    []string `json:"notes,omitempty"`
	Error    string   `json:"error,omitempty"`
	Done     bool     `json:"done,omitempty"`
}

// engineGrace is how long the engine may take to end.
const engineGrace = 60 * time.Second

// RunHistoryEngine is the child of the measurement «history»: it reads a job, as JSON, and does it with the hub's
// history engine in this process, without a network, so that CPU, memory and bytes written are the engine's and the
// load's alone. It says what it finds in lines of JSON.
func RunHistoryEngine(ctx context.Context, in io.Reader, out io.Writer) error {
	var job historyJob
	if err := json.NewDecoder(in).Decode(&job); err != nil {
		return fmt.Errorf("the history engine's job is no JSON: %w", err)
	}
	e := &engine{historyJob: job, out: bufio.NewWriter(out), last: time.Now()}
	jobs := map[string]func(context.Context) error{
		"intake": e.intake, "rows": e.naive, "fill": e.fill, "ask": e.ask, "empty": e.empty, "churn": e.churn, "verify": e.verify,
	}
	do, ok := jobs[job.Job]
	if !ok {
		return fmt.Errorf("the history engine has no job %q", job.Job)
	}
	var err error
	if job.Job == "intake" || job.Job == "rows" || job.Job == "fill" {
		err = e.empty(ctx)
	}
	if err == nil {
		err = do(ctx)
	}
	if err != nil {
		err = errors.Join(err, e.say(historyLine{Error: err.Error()}))
		return err
	}
	return e.say(historyLine{Rows: e.rows, Notes: e.notes, Done: true})
}

// engine is one job under way.
type engine struct {
	historyJob
	mu    sync.Mutex
	out   *bufio.Writer
	last  time.Time // progress was said
	rows  []Row
	notes []string

	st   *store.Store
	log  *history.Log
	stop func() error
}

func (e *engine) say(l historyLine) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, err := e.out.Write(append(b, '\n')); err != nil {
		return err
	}
	return e.out.Flush()
}

// progress says how far it has come, at most every two seconds.
func (e *engine) progress(format string, args ...any) {
	if time.Since(e.last) < 2*time.Second {
		return
	}
	e.last = time.Now()
	_ = e.say(historyLine{Progress: fmt.Sprintf(format, args...)}) // the result will fail as well
}

func (e *engine) note(format string, args ...any) {
	e.notes = append(e.notes, fmt.Sprintf(format, args...))
}

func (e *engine) add(name string, values ...Value) {
	e.rows = append(e.rows, Row{Name: name, Values: values})
}

// open starts the engine on its database and gives how long that took.
func (e *engine) open(ctx context.Context, cfg history.Config) (took time.Duration, err error) {
	began := time.Now()
	logger := slog.New(slog.NewTextHandler(engineLog{e}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	cfg.Logger = logger
	if e.st, err = store.Open(ctx, store.Config{Dir: e.Dir, URL: e.Store, Logger: logger}); err != nil {
		return 0, err
	}
	if e.log, err = history.Open(ctx, cfg, e.st); err == nil {
		err = e.log.Restore(ctx, e.log.Committed(), func(*signalbox.Entry) error { return nil })
	}
	if err != nil {
		return 0, errors.Join(err, e.st.Close())
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- e.log.Run(running, engineGrace) }()
	e.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-ended, e.st.Close())
	})
	return time.Since(began), nil
}

// engineLog passes the engine's warnings on as progress.
type engineLog struct{ e *engine }

// Write implements io.Writer.
func (w engineLog) Write(p []byte) (int, error) {
	return len(p), w.e.say(historyLine{Progress: string(p)})
}

// fullPause is how long the load waits when the log takes no more.
const fullPause = 200 * time.Microsecond

// put appends an entry, and waits when the log is full.
func (e *engine) put(ctx context.Context, entry *signalbox.Entry) error {
	for {
		err := e.log.Append(entry, history.Soon)
		if !errors.Is(err, history.ErrFull) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(fullPause):
		}
	}
}

// settled waits until the sealer has taken up all that is committed and its chunks are on disk, and gives when that was.
func (e *engine) settled(ctx context.Context) (time.Time, error) {
	if _, err := e.log.Page(ctx, history.Query{Device: 1, Limit: 1}); err != nil { // waits for the sealer
		return time.Time{}, err
	}
	const quiet = 250 * time.Millisecond
	s := e.log.Stats()
	chunks, last := s.ChunkMessages.Load(), time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for time.Since(last) < quiet {
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-tick.C:
		}
		if now := s.ChunkMessages.Load(); now != chunks {
			chunks, last = now, time.Now()
		}
	}
	return last, nil
}

// disk is what the database takes, in bytes.
type disk struct{ all, chunks, messages float64 }

// diskUse asks the database: its pages in use; those of chunks, with their indexes and forms; messages in chunks.
func (e *engine) diskUse(ctx context.Context) (d disk, err error) {
	ask := func(to *float64, query string) {
		if err == nil {
			err = e.st.Reader().QueryRowContext(ctx, query).Scan(to)
		}
	}
	if err := e.refresh(ctx, `ANALYZE TABLE chunk, shape, intake`); err != nil {
		return d, err
	}
	ask(&d.messages, `SELECT COALESCE(SUM(n), 0) + 0.0 FROM chunk`)
	switch e.kind() {
	case "PostgreSQL":
		ask(&d.chunks, `SELECT (pg_total_relation_size('chunk') + pg_total_relation_size('shape'))::float8`)
		ask(&d.all, `SELECT SUM(pg_total_relation_size(c.oid))::float8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname = current_schema()`)
	case "MariaDB":
		const sizes = `SELECT COALESCE(SUM(data_length + index_length), 0) + 0.0 FROM information_schema.tables WHERE table_schema = DATABASE()`
		ask(&d.chunks, sizes+` AND table_name IN ('chunk', 'shape')`)
		ask(&d.all, sizes)
	default:
		ask(&d.chunks, `SELECT SUM(pgsize) + 0.0 FROM dbstat WHERE name IN (SELECT name FROM sqlite_master WHERE tbl_name IN ('chunk', 'shape'))`)
		ask(&d.all, `SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size) - (SELECT freelist_count FROM pragma_freelist_count) * (SELECT page_size FROM pragma_page_size) + 0.0`)
	}
	if err != nil {
		return d, fmt.Errorf("ask how much disk the database takes: %w", err)
	}
	return d, nil
}

// refresh makes MariaDB count anew how large its tables are; the others need no such thing.
func (e *engine) refresh(ctx context.Context, analyze string) (err error) {
	if e.kind() != "MariaDB" {
		return nil
	}
	rows, err := e.st.Reader().QueryContext(ctx, analyze)
	if err != nil {
		return fmt.Errorf("%s: %w", analyze, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() { // it tells how it went
		continue
	}
	return rows.Err()
}

// kind names the database.
func (e *engine) kind() string { return databaseKind(e.Store) }
