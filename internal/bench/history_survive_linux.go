package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

const (
	churnDevices = 300
	churnKeep    = 30_000
	oldMessages  = 20_000
	// killPatience is how long a round may take.
	killPatience = 2 * time.Minute
)

// surviveHistory kills the history engine again and again while it seals, merges, drops what is old and takes an import
// among telemetry, and while it migrates a database of the first release. After each kill everything is read back.
func (b *bencher) surviveHistory(ctx context.Context, rounds int) error {
	dir, err := b.historyDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err = b.surviveChurn(ctx, filepath.Join(dir, "churn"), rounds); err != nil {
		return fmt.Errorf("survive, sealing, retention and import: %w", err)
	}
	if err = b.surviveMigration(ctx, filepath.Join(dir, "old"), rounds); err != nil {
		return fmt.Errorf("survive, migration: %w", err)
	}
	b.report.note("history: the engine with small tails, so that it seals, merges and drops all the time; one in 17 messages is imported, up to a minute late. " +
		"After each kill everything is read back in the order of time, in that of the log, and by pages, and compared by content.")
	return err
}

func (b *bencher) surviveChurn(ctx context.Context, dir string, rounds int) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	c := churn{Devices: churnDevices, Keep: churnKeep}
	var chunks, late, start, messages float64
	for round := range rounds {
		b.Logger.Info("a round of survive, history", "round", round+1)
		if err := b.churnUntilKilled(ctx, dir, &c); err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
		rows, err := b.historyChildIn(ctx, historyJob{Job: "verify", Dir: dir, Churn: c}, killPatience)
		if err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
		for _, v := range rows[0].Values {
			switch v.Name {
			case "chunks":
				chunks = v.Value
			case "late chunks":
				late = v.Value
			case "messages":
				messages = v.Value
			case "start":
				start += v.Value
			case "last":
				c.Acked = int64(v.Value) // from now on
			}
		}
	}
	b.report.add("history, kill -9", []Value{
		{"rounds", "", float64(rounds)},
		{"acknowledged", "", float64(c.Acked)},
		{"kept", "", messages},
		{"chunks", "", chunks},
		{"late chunks", "", late},
		{"lost after saved", "", 0},
		{"twice", "", 0},
		{"restart", "s", start / float64(rounds)},
	})
	return nil
}

// churnUntilKilled lets the load run for a moment and kills it, the first time not before it has sealed something; c notes
// what it said.
func (b *bencher) churnUntilKilled(ctx context.Context, dir string, c *churn) (err error) {
	e, err := b.startEngine(historyJob{Job: "churn", Dir: dir, Churn: *c})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	var kill *time.Timer
	defer func() {
		if kill != nil {
			kill.Stop()
		}
	}()
	for {
		l, err := e.next(ctx)
		if errors.Is(err, errEngineEnded) && kill != nil && e.killed() {
			return e.end()
		}
		if err != nil {
			return errors.Join(err, fmt.Errorf("the engine said: %s", e.said), e.kill(), e.end())
		}
		c.Acked, c.Cut = max(c.Acked, l.Acked), max(c.Cut, l.Cut)
		c.sealed = c.sealed || l.Chunks > 0
		if kill == nil && l.Acked > 0 && c.sealed {
			kill = time.AfterFunc(100*time.Millisecond+rand.N(min(b.Duration, 1500*time.Millisecond)), func() { _ = e.kill() })
		}
	}
}

// killed waits for the end of a child whose output has ended and says whether a signal ended it.
func (c *engineChild) killed() bool {
	<-c.done
	return c.cmd.ProcessState.ExitCode() < 0
}

// surviveMigration kills the engine at random moments of its start on a database of the first release.
func (b *bencher) surviveMigration(ctx context.Context, dir string, rounds int) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	c := churn{Devices: churnDevices, Plain: true, Old: true, Count: oldMessages}
	if _, err := b.historyChildIn(ctx, historyJob{Job: "churn", Dir: dir, Churn: c}, killPatience); err != nil {
		return err
	}
	c.Acked = oldMessages
	for round := range rounds {
		b.Logger.Info("a round of survive, migration", "round", round+1)
		if err := b.migrate(ctx, dir, c); err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
	}
	b.report.add("migration, kill -9", []Value{{"rounds", "", float64(rounds)}, {"messages", "", oldMessages}, {"lost", "", 0}, {"twice", "", 0}})
	return nil
}

// migrationMost is how long after the first write a migration is killed at most.
const migrationMost = 20 * time.Millisecond

// migrate copies the old database, kills an engine soon after it begins to write in it, and has another one verify it.
func (b *bencher) migrate(ctx context.Context, old string, c churn) (err error) {
	dir, err := os.MkdirTemp(filepath.Dir(old), "migrate-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.CopyFS(dir, os.DirFS(old)); err != nil {
		return err
	}
	job := historyJob{Job: "verify", Dir: dir, Churn: c}
	e, err := b.startEngine(job)
	if err != nil {
		return err
	}
	writing, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	for !e.ended() && writing.Err() == nil {
		if info, err := os.Stat(filepath.Join(dir, "signalbox.db-wal")); err == nil && info.Size() > 0 {
			break
		}
		_ = preciseSleep(writing, time.Now().Add(100*time.Microsecond)) // its end is asked above
	}
	_ = preciseSleep(writing, time.Now().Add(rand.N(migrationMost)))
	_ = e.kill() // it may have ended
	if err := errors.Join(e.end(), writing.Err()); err != nil {
		return err
	}
	_, err = b.historyChildIn(ctx, job, killPatience)
	return err
}
