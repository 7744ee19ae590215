package cli

import (
	"cmp"
	"context"
	"database/sql" //nolint:depguard // the database of another program, which is read once
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"signalbox"
	"signalbox/internal/transfer"
)

// b4Patience is how long the database may take to connect, and b4Silence between two rows.
const (
	b4Patience = 10 * time.Second
	b4Silence  = 2 * time.Minute
)

// b4Config reads the address of the M2M original's database.
func (c *command) b4Config(text string) (*mysql.Config, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "mysql" && u.Scheme != "mariadb" || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return nil, usagef("--b4 needs the address of a database, such as mysql://user:password@127.0.0.1/mtom") // the text may hold a password
	}
	m := mysql.NewConfig()
	m.Net, m.Addr, m.DBName = "tcp", u.Host, strings.Trim(u.Path, "/")
	if u.Port() == "" {
		m.Addr = net.JoinHostPort(u.Hostname(), "3306")
	}
	m.User = u.User.Username()
	var given bool
	if m.Passwd, given = u.User.Password(); !given {
		m.Passwd = c.env("MYSQL_PWD")
	}
	m.Timeout, m.ReadTimeout, m.Logger = b4Patience, b4Silence, &mysql.NopLogger{}
	for name, values := range u.Query() {
		if name != "tls" {
			return nil, usagef("--b4: there is no parameter %q; known is tls (true, skip-verify, preferred)", name)
		}
		m.TLSConfig = values[0]
	}
	return m, nil
}

// importB4 reads the original's table and sends it to the hub as CSV: the times as the
// server wrote them, and the numbers as it spells them.
func (c *command) importB4(ctx context.Context, f telemetryFlags) (err error) {
	if f.device == "" {
		return usagef("--b4 needs --device, the device whose readings the table has")
	}
	if f.format != "" {
		return usagef("--format is for files; --b4 reads a database")
	}
	cfg, err := c.b4Config(f.b4)
	if err != nil {
		return err
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return usagef("--b4: %s", err)
	}
	db := sql.OpenDB(connector)
	defer func() { err = errors.Join(err, db.Close()) }()
	table, timeColumn, field := cmp.Or(f.table, transfer.DefaultTable), cmp.Or(f.timeColumn, "time"), cmp.Or(f.field, transfer.DefaultField)
	value := field
	if value == timeColumn {
		return usagef("--field %s is the column of the times", value)
	}
	// As text, for the driver would read numbers and spell them its own way.
	rows, err := db.QueryContext(ctx, "SELECT CONCAT("+quoteName(timeColumn)+"), CONCAT("+quoteName(value)+") FROM "+quoteName(table)) //nolint:gosec,rowserrcheck // names are quoted; sendRows asks rows.Err
	if err != nil {
		return b4Fault(ctx, cfg, err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	out, in := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := sendRows(rows, in, timeColumn, field)
		_ = in.CloseWithError(err) // cannot fail
		sent <- err
	}()
	o := f.options()
	o.Format, o.TimeColumn, o.Table, o.Field = "csv", timeColumn, "", ""
	imported := c.importTelemetry(ctx, "the table "+table, out, 0, o)
	_ = out.Close() // ends the sender, if it still sends
	if fault := <-sent; fault != nil && !errors.Is(fault, io.ErrClosedPipe) {
		return b4Fault(ctx, cfg, fault)
	}
	return imported
}

func b4Fault(ctx context.Context, cfg *mysql.Config, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return failureError{fmt.Errorf("the database %s at %s refuses: %s", cfg.DBName, cfg.Addr, e.Message)}
	}
	return signalbox.Wrap(signalbox.KindUnavailable, "no_database", err, "the database at %s does not answer", cfg.Addr)
}

// quoteName writes the name of a column, or a table with or without its database.
func quoteName(name string) string {
	parts := strings.Split(name, ".")
	for i, part := range parts {
		parts[i] = "`" + strings.ReplaceAll(part, "`", "``") + "`"
	}
	return strings.Join(parts, ".")
}

func sendRows(rows *sql.Rows, out io.Writer, timeColumn, field string) error {
	w := csv.NewWriter(out)
	if err := w.Write([]string{timeColumn, field}); err != nil {
		return err
	}
	var at, value sql.NullString
	for rows.Next() {
		if err := rows.Scan(&at, &value); err != nil {
			return err
		}
		if err := w.Write([]string{at.String, value.String}); err != nil {
			return err
		}
	}
	w.Flush()
	return errors.Join(rows.Err(), w.Error())
}
