package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"signalbox"
	"signalbox/client"
	"signalbox/internal/app"
)

type backupFlags struct{ force, withKey bool }

func (c *command) backupCommand() *cobra.Command {
	var f backupFlags
	cmd := &cobra.Command{
		Use:   "backup FILE|-",
		Short: "Back up everything in the database, while the hub runs",
		Long: `Writes a backup of everything in the database as of one moment: devices, people, tokens, commands and
all history. The hub goes on working meanwhile. It is one format for all databases: a backup of one is
restored into any other. «-» is standard output.

The file is private (0600) and gets its name when it is complete. The key file secret.key is not in it,
so that a backup alone gives no device's secret away: keep a copy of it apart, or say --with-key.`,
		Example: `  signalbox backup signalbox-monday.backup
  signalbox backup - | ssh backup@vault 'cat > signalbox.backup'
  signalbox backup remote.backup --url https://hub.local:8080 --token-file admin.token
  signalbox backup verify signalbox-monday.backup`,
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.backup(cmd.Context(), args[0], f) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.force, "force", false, "replace FILE if it is there")
	flags.BoolVar(&f.withKey, "with-key", false, "put the key file secret.key into the backup")
	cmd.AddCommand(c.backupVerifyCommand())
	return cmd
}

// backupDone is the report of a backup that was made.
type backupDone struct {
	File string `json:"file"`
	client.BackupReport
	DurationMs int64 `json:"duration_ms"`
}

func (c *command) backup(ctx context.Context, name string, f backupFlags) error {
	if name == "-" {
		if _, ok := terminal(c.Stdout); ok {
			return usagef("a backup is nothing to look at; redirect standard output, or name a file")
		}
		out := bufio.NewWriterSize(c.Stdout, 1<<16)
		done, err := c.fetchBackup(ctx, out, name, f)
		if err == nil {
			err = out.Flush()
		}
		if err != nil {
			return err
		}
		return c.reportBackup(c.Stderr, done)
	}
	if err := freeName(name, f.force); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*.part") // with mode 0600
	if err != nil {
		return usagef("%s cannot be written: %s", name, app.Cause(err))
	}
	done, err := c.fetchBackup(ctx, file, name, f)
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = freeName(name, f.force) // it may have come meanwhile
	}
	if err == nil {
		err = os.Rename(file.Name(), name)
	}
	if err != nil {
		_ = os.Remove(file.Name()) // the error that counts is the first
		return err
	}
	if err := keepName(filepath.Dir(name)); err != nil {
		return err
	}
	return c.reportBackup(c.Stdout, done)
}

// freeName refuses a name that is taken.
func freeName(name string, force bool) error {
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return usagef("%s cannot be written: %s", name, app.Cause(err))
	case info.IsDir():
		return usagef("%s is a directory; name a file in it", name)
	case !info.Mode().IsRegular():
		return usagef("%s is no ordinary file; a backup goes to a file, or to standard output («-»)", name)
	case !force:
		return usagef("%s is there already; choose another name, or replace it with --force", name)
	default:
		return nil
	}
}

// keepName makes a new name in dir durable, where the system can.
func keepName(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	_ = d.Sync() // not all systems can; the file's content is on disk
	return d.Close()
}

// fetchBackup gets a backup from the hub.
func (c *command) fetchBackup(ctx context.Context, w io.Writer, name string, f backupFlags) (done backupDone, err error) {
	done.File = name
	begun := time.Now()
	err = c.withHub(ctx, func(r *reach) error {
		bar := c.progress("rows", 0)
		defer bar.end()
		done.BackupReport, err = r.Backup(ctx, w, client.BackupOptions{WithKey: f.withKey, Progress: func(now, total int64) {
			bar.total = int(total)
			bar.at(int(now))
		}})
		return err
	})
	done.DurationMs = time.Since(begun).Milliseconds()
	return done, err
}

func (c *command) reportBackup(w io.Writer, done backupDone) error {
	if c.flags.json {
		return writeJSONLine(w, done)
	}
	key := "without secret.key, which belongs in another place"
	if done.WithKey {
		key = "with secret.key"
	}
	_, err := fmt.Fprintf(w, "%s: %d rows, %s, up to position %d of the log, %s (%s)\n",
		clean(done.File), done.Rows, sizeText(done.Bytes), done.Position, time.Duration(done.DurationMs)*time.Millisecond, key)
	return err
}

// writeJSONLine is printJSON to another place.
func writeJSONLine(w io.Writer, v any) error {
	p := Program{Stdout: w}
	return p.printJSON(v)
}

// sizeText writes a number of bytes for people.
func sizeText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
}

func (c *command) backupVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE",
		Short: "Check that a backup is whole, undamaged and can be restored by this program",
		Long: `Reads a backup to its end, with all checksums, and tells what is in it. Nothing is changed and no hub is
needed. (To back up into a file named verify, write ./verify.)`,
		Example: `  signalbox backup verify signalbox-monday.backup
  signalbox backup verify signalbox-monday.backup --json`,
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.verifyBackup(cmd.Context(), args[0]) },
	}
}

// backupChecked is the report of a backup that was checked.
type backupChecked struct {
	File string `json:"file"`
	OK   bool   `json:"ok"`
	app.BackupReport
}

func (c *command) verifyBackup(ctx context.Context, name string) error {
	file, err := os.Open(name)
	if err != nil {
		return usagef("%s cannot be read: %s", name, app.Cause(err))
	}
	defer func() { _ = file.Close() }() // it was only read
	bar := c.progress("rows", 0)
	defer bar.end()
	report, err := app.VerifyBackup(ctx, file, func(done, total int64) {
		bar.total = int(total)
		bar.at(int(done))
	})
	bar.end()
	if err != nil {
		return backupFault(name, err)
	}
	if c.flags.json {
		return c.printJSON(backupChecked{name, true, report})
	}
	if err := c.printf("%s is whole: %s of %s (version %s), %d rows, %s, up to position %d of the log\n",
		clean(name), timeText(report.Made), clean(report.Database), clean(report.MadeBy), report.Rows, sizeText(report.Bytes), report.Position); err != nil {
		return err
	}
	t := newTable("TABLE", "ROWS")
	for _, table := range report.Tables {
		t.add(nil, table.Name, fmt.Sprint(table.Rows))
	}
	return t.write(c.Stdout, c.paint())
}

// backupFault names the file in what is wrong with it. Such a fault is none of the usage.
func backupFault(name string, err error) error {
	switch signalbox.CodeOf(err) {
	case "not_a_backup", "backup_cut", "backup_damaged", "backup_newer":
		return failureError{fmt.Errorf("%s: %w", name, err)}
	default:
		return err
	}
}

func (c *command) restoreCommand() *cobra.Command {
	var store string
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Restore a backup into a fresh data directory or an empty database",
		Long: `Checks a backup to its end and then fills a fresh data directory (--data) or an empty database (--store,
or the one of the configuration) with it. It refuses where there are data already, or where a hub runs. A
backup of an older version is brought to this one. A restore that was cut off leaves nothing that a hub
would start from; the next one begins anew.

The key file secret.key is not part of a backup unless it was made with --with-key: put its copy into the
data directory, or devices with chosen or imported secrets cannot log in.`,
		Example: `  signalbox restore signalbox-monday.backup --data /var/lib/signalbox
  SIGNALBOX_STORE=postgres://hub:s3cret@db/hub signalbox restore signalbox-monday.backup --data ./data`,
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.restore(cmd.Context(), args[0], store) },
	}
	cmd.Flags().StringVar(&store, "store", "", "the empty database: mysql://… or postgres://… (default SQLite in the data directory); SIGNALBOX_STORE keeps a password out of the list of processes")
	return cmd
}

// restored is the report of a restore.
type restored struct {
	File string `json:"file"`
	Data string `json:"data"`
	app.RestoreReport
	DurationMs int64 `json:"duration_ms"`
}

func (c *command) restore(ctx context.Context, name, store string) error {
	if c.flags.url != "" {
		return usagef("a backup is restored here; --url is for the commands that speak to a running hub")
	}
	settings := map[string]string{}
	if store != "" {
		settings["store"] = store
	}
	loaded, err := c.loadConfig(settings)
	if err != nil {
		return err
	}
	file, err := os.Open(name)
	if err != nil {
		return usagef("%s cannot be read: %s", name, app.Cause(err))
	}
	defer func() { _ = file.Close() }() // it was only read
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return usagef("%s is no ordinary file; a backup is read twice, first to check it", name)
	}
	begun := time.Now()
	logger := slog.New(slog.NewTextHandler(c.Stderr, &slog.HandlerOptions{Level: max(slog.LevelWarn, loaded.Config.Log.Level)}))
	checking, filling := c.progress("rows checked", 0), c.progress("rows restored", 0)
	defer checking.end()
	defer filling.end()
	report, err := app.Restore(ctx, app.Options{Config: loaded.Config, Logger: logger, Version: c.version()}, file, func(restoring bool, done, total int64) {
		bar := checking
		if restoring {
			bar = filling
			if done == 0 {
				checking.end()
				filling.begun = time.Now()
			}
		}
		bar.total = int(total)
		bar.at(int(done))
	})
	checking.end()
	filling.end()
	if err != nil {
		return backupFault(name, err)
	}
	done := restored{name, loaded.Config.Data, report, time.Since(begun).Milliseconds()}
	if c.flags.json {
		return c.printJSON(done)
	}
	return c.printRestored(done)
}

func (c *command) printRestored(done restored) error {
	if err := c.printf("Restored %d rows of %s into %s in %s; the log ends at position %d.\n",
		done.Rows, timeText(done.Made), clean(done.Store), time.Duration(done.DurationMs)*time.Millisecond, done.Position); err != nil {
		return err
	}
	if !done.KeyMissing {
		return nil
	}
	return c.printf("The key file %s is missing, or is another than the one of the backup: put its copy there before\n"+
		"you start the hub, or devices with chosen or imported secrets cannot log in.\n", filepath.Join(done.Data, "secret.key"))
}
