package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"signalbox/internal/store"
)

// runHistory measures the history engine in children of its own, beside a row a message.
func runHistory(ctx context.Context, b *bencher) error {
	if b.URL != "" {
		return errors.New("history is measured in a process of its own: leave out the URL of a hub")
	}
	if b.Store != "" {
		if err := store.CheckURL(b.Store); err != nil {
			return err
		}
	}
	b.sizes = b.chooseSizes()
	plan, err := planPast(b.sizes.pastDevices, b.sizes.messages, time.Now().Add(-time.Hour))
	if err != nil {
		return err
	}
	if b.Quick {
		b.Runs, b.report.Runs = 1, 1
		b.report.note("Quick: everything is small; the goals are those of the full measurement.")
	}
	parts := map[string]func(context.Context, past) error{
		"intake":    func(ctx context.Context, _ past) error { return b.historyIntake(ctx) },
		"rows":      func(ctx context.Context, _ past) error { return b.historyRows(ctx) },
		"questions": b.historyQuestions,
	}
	for _, v := range b.Variants {
		if err := parts[v](ctx, plan); err != nil {
			return fmt.Errorf("history, %s: %w", v, err)
		}
	}
	if b.Store != "" {
		if _, err := b.historyChildIn(ctx, historyJob{Job: "empty"}, time.Minute); err != nil {
			return err
		}
	}
	b.report.note("%s", realistic)
	b.report.note("The engine runs in a process of its own, which makes the load as well: CPU is without what making it costs, memory with it. " +
		"written: what the process gave to the disk (/proc/PID/io); for a database on a server that is the server's, and not counted.")
	return nil
}

// historyIntake measures how fast telemetry is committed and sealed.
func (b *bencher) historyIntake(ctx context.Context) error {
	s := b.sizes
	for _, devices := range s.devices {
		var runs [][]Row
		for run := range b.Runs {
			b.Logger.Info("measuring the intake of history", "run", run+1, "devices", devices)
			job := historyJob{Job: "intake", Devices: devices, Messages: max(s.intake, s.perDevice*devices), Limit: s.intakeLimit, Seed: uint64(run)}
			rows, err := b.historyChild(ctx, job, 2*s.intakeLimit+time.Minute)
			if err != nil {
				return err
			}
			runs = append(runs, rows)
		}
		b.addRuns(runs)
	}
	r := b.report
	for devices, least := range map[int]float64{100: 1e6, 1000: 1e6, 10_000: 8e5, 100_000: 5e5} {
		if row := b.historyRow("%s devices", format(float64(devices))); slices.Contains(s.devices, devices) {
			r.goal(row+": messages sealed", r.get(row, "sealed"), least, true, "msg/s")
		}
	}
	for devices, most := range map[int]float64{1000: 8, 100_000: 14} {
		row := b.historyRow("%s devices", format(float64(devices)))
		if share := r.getUnit(row, "in chunks", "%"); slices.Contains(s.devices, devices) && share > 0 {
			r.goal(row+": disk of what is in chunks", r.getUnit(row, "in chunks", "B/msg"), most, false, "B/msg")
		}
	}
	for devices, most := range map[int]float64{10_000: 300, 100_000: 1024} {
		row := b.historyRow("%s devices", format(float64(devices)))
		if slices.Contains(s.devices, devices) {
			r.goal(row+": peak of memory", r.get(row, "peak memory"), most, false, "MiB")
		}
	}
	if b.Store == "" {
		for _, devices := range s.devices {
			row := b.historyRow("%s devices", format(float64(devices)))
			r.goal(row+": written while ingesting", r.get(row, "written"), 100, false, "B/msg")
		}
	}
	r.sortGoals()
	r.note("Intake: from one goroutine, devices in turn, times of receipt by this machine's clock. committed: until all is on disk in the log; sealed: until all chunks that come of it are. " +
		"in chunks: the rest, at most 4 Mi messages, is in the log and in memory; B/msg of chunks with their indexes; disk: everything in use, the log included.")
	return nil
}

// historyRows measures the naive table.
func (b *bencher) historyRows(ctx context.Context) error {
	s := b.sizes
	for _, devices := range s.rows {
		b.Logger.Info("measuring a row a message", "devices", devices)
		job := historyJob{Job: "rows", Devices: devices, Messages: s.rowMessages, Limit: s.rowLimit, Seed: 1}
		rows, err := b.historyChild(ctx, job, 2*s.rowLimit+time.Minute)
		if err != nil {
			return err
		}
		b.report.Rows = append(b.report.Rows, rows...)
	}
	b.report.note("Row a message: a table (id, device, ts, payload) with an index on (device, ts), %d messages a transaction, %d a statement, device 1 with half of them.", naiveBatch, naiveRows)
	return nil
}

// historyQuestions fills a month and asks about it.
func (b *bencher) historyQuestions(ctx context.Context, plan past) error {
	s := b.sizes
	dir, err := b.historyDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b.Logger.Info("filling a month of history", "messages", plan.Messages, "devices", plan.Devices)
	rows, err := b.historyChildIn(ctx, historyJob{Job: "fill", Dir: dir, Past: plan, Limit: s.fillLimit, Seed: 1}, 2*s.fillLimit+time.Minute)
	if err != nil {
		return err
	}
	b.report.Rows = append(b.report.Rows, rows...)
	b.Logger.Info("asking about the month")
	// Scans and export are bounded by the size of the past.
	limit := 60*s.asked + time.Duration(plan.Messages)*50*time.Microsecond + 2*time.Minute
	if rows, err = b.historyChildIn(ctx, historyJob{Job: "ask", Dir: dir, Past: plan, Limit: s.asked}, limit); err != nil {
		return err
	}
	b.report.Rows = append(b.report.Rows, rows...)
	for _, row := range rows {
		b.questionGoal(row.Name)
	}
	b.report.note("The month: device 1 has %s messages, %d devices have a message a minute for 30 days, at the end all send one a second for %d s, before that one a minute for %d minutes. "+
		"Times are those of the devices, with 20 ms of jitter; chunks keep times of receipt beside them. Cold: after the database let go of its caches and the system of its page cache of the files; 0: not measured (server).",
		format(float64(plan.Deep)), plan.Months, plan.Dense, plan.Rest)
	return err
}

// questionGoal holds a row of the questions against its goal.
func (b *bencher) questionGoal(name string) {
	r := b.report
	for _, g := range []struct {
		part, value, unit string
		limit             float64
		atLeast           bool
	}{
		{", last 20", "warm p50", "ms", 0.5, false},
		{", 20 at row", "warm p50", "ms", 0.5, false},
		{", a day in 1,000", "warm p50", "ms", 2, false},
		{", a week in 1,000", "warm p50", "ms", 5, false},
		{", a month in 1,000", "warm p50", "ms", 15, false},
		{", all devices in order", "rate", "rows/s", 5e6, true},
		{", export of all", "memory above", "MiB", 200, false},
		{", retention", "took", "ms", 500, false},
	} {
		if strings.Contains(name, g.part) {
			r.goal(name+", "+g.value, r.get(name, g.value), g.limit, g.atLeast, g.unit)
		}
	}
}

func (b *bencher) historyRow(format string, args ...any) string {
	return databaseKind(b.Store) + ", " + fmt.Sprintf(format, args...)
}

// addRuns appends the rows of several runs as medians.
func (b *bencher) addRuns(runs [][]Row) {
	for i, row := range runs[0] {
		values := make([][]Value, 0, len(runs))
		for _, run := range runs {
			values = append(values, run[i].Values)
		}
		b.report.add(row.Name, values...)
	}
}

func (b *bencher) historyDir() (string, error) {
	dir, err := os.MkdirTemp(b.Dir, "signalbox-bench-")
	if err != nil {
		return "", fmt.Errorf("make a directory for the history: %w", err)
	}
	return dir, nil
}

// historyChild does a job on a database of its own.
func (b *bencher) historyChild(ctx context.Context, job historyJob, limit time.Duration) (rows []Row, err error) {
	if job.Dir, err = b.historyDir(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(job.Dir)) }()
	return b.historyChildIn(ctx, job, limit)
}

// historyChildIn does a job in a child and gives the rows it reports; limit is how long that may take.
func (b *bencher) historyChildIn(ctx context.Context, job historyJob, limit time.Duration) (rows []Row, err error) {
	job.Store = b.Store
	c, err := b.startEngine(job)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		l, err := c.next(ctx)
		if err != nil {
			return nil, err
		}
		if l.Done {
			for _, n := range l.Notes {
				b.report.note("%s", n)
			}
			return l.Rows, nil
		}
	}
}

// engineChild is a child with the history engine.
type engineChild struct {
	*child
	b     *bencher
	out   *os.File
	lines *bufio.Scanner
}

// lineBytes bounds what the child says in one line.
const lineBytes = 1 << 20

func (b *bencher) startEngine(job historyJob) (*engineChild, error) {
	program, err := b.program()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c, err := startChild(program, []string{"bench", "history-engine"}, nil, bytes.NewReader(text), outW)
	if err = errors.Join(err, outW.Close()); err != nil {
		return nil, errors.Join(err, outR.Close())
	}
	e := &engineChild{child: c, b: b, out: outR, lines: bufio.NewScanner(outR)}
	e.lines.Buffer(nil, lineBytes)
	return e, nil
}

// next gives the child's next line that is no progress; progress goes to the log.
func (c *engineChild) next(ctx context.Context) (l historyLine, err error) {
	// A wait for the child ends with ctx.
	deadline := context.AfterFunc(ctx, func() { _ = c.out.SetReadDeadline(time.Now()) })
	defer deadline()
	for c.lines.Scan() {
		l = historyLine{}
		if err := json.Unmarshal(c.lines.Bytes(), &l); err != nil {
			return l, fmt.Errorf("the history engine said %q: %w", c.lines.Text(), err)
		}
		switch {
		case l.Error != "":
			return l, errors.New(l.Error)
		case l.Progress == "":
			return l, nil
		}
		c.b.Logger.Info("history engine: " + strings.TrimSpace(l.Progress)) //nolint:sloglint // what the child says
	}
	if ctx.Err() != nil {
		return l, fmt.Errorf("the history engine did not end in time: %w", ctx.Err())
	}
	return l, errors.Join(errEngineEnded, c.lines.Err())
}

// errEngineEnded says that the child is gone.
var errEngineEnded = errors.New("the history engine ended without a result")

// endPatience is how long a child that has said its last word may take to end by itself.
const endPatience = time.Second

// end waits for the child, or ends it.
func (c *engineChild) end() error {
	err := c.out.Close() // whatever it still says, nobody hears it
	patience := time.NewTimer(endPatience)
	defer patience.Stop()
	select {
	case <-c.done:
	case <-patience.C:
		err = errors.Join(err, c.stop())
	}
	return err
}
