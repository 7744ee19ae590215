package store

import (
	"context"
	"crypto/tls"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/pressly/goose/v3"

	"signalbox"
)

const (
	// mariaOldest is the oldest MariaDB this package is tried on.
	mariaOldestMajor, mariaOldestMinor = 10, 11
	// packetSlack is what a statement takes beside its largest value.
	packetSlack = 1 << 20
	// mariaLock names the lock on the database, mariaOwn that by which the sessions of one
	// Store know each other. Such locks are the server's, not the database's.
	mariaLock = `CONCAT('signalbox.', LEFT(SHA2(DATABASE(), 256), 32))`
	mariaOwn  = `CONCAT('signalbox.', ?)`
)

// maria is the dialect of MariaDB.
type maria struct{ e *server }

func (d *maria) connector(write bool) (*connector, error) {
	to, own := &d.e.to, &d.e.s.cfg
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.Net, cfg.Addr, cfg.DBName = to.user, to.password, to.network, to.address, to.database
	cfg.Timeout, cfg.ReadTimeout, cfg.WriteTimeout = own.ConnectTimeout, own.Timeout, own.Timeout
	cfg.MaxAllowedPacket = 0 // as the server has it
	cfg.Logger = &mysql.NopLogger{}
	cfg.ClientFoundRows = true // a row that is changed to what it was counts, as elsewhere
	// A reader's statement is sent with its values in it, for one answer instead of three. The
	// writer's are prepared once and kept.
	cfg.InterpolateParams = !write
	if err := d.encrypt(cfg); err != nil {
		return nil, err
	}
	inner, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, badURL("the store's address cannot be used: %v", err)
	}
	session := fmt.Sprintf(`sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ANSI_QUOTES,PIPES_AS_CONCAT,NO_AUTO_VALUE_ON_ZERO',
		time_zone = '+00:00', innodb_lock_wait_timeout = %d, net_write_timeout = 600`, max(1, int(own.Timeout/time.Second)))
	c := &connector{
		Connector: inner, timeout: own.ConnectTimeout, translate: newUpserts().translate, explain: d.e.explain, unreachable: d.e.unreachable,
		simple: func(ctx context.Context, c driverConn, query string) (int64, error) {
			res, err := c.ExecContext(ctx, query, nil)
			if err != nil {
				return 0, err
			}
			return res.RowsAffected()
		},
		alive: func(c driverConn) bool {
			v, ok := c.(driver.Validator)
			return !ok || v.IsValid()
		},
	}
	c.setup = []string{"SET NAMES utf8mb4 COLLATE utf8mb4_nopad_bin"}
	if write {
		idle := int(sessionIdle / time.Second)
		c.setup = append(c.setup, fmt.Sprintf("SET SESSION %s, wait_timeout = %d, idle_transaction_timeout = %d", session, idle, idle))
	} else {
		c.setup = append(c.setup, "SET SESSION "+session, "SET SESSION TRANSACTION READ ONLY")
	}
	return c, nil
}

func (d *maria) encrypt(cfg *mysql.Config) error {
	to := &d.e.to
	cfg.TLSConfig = to.options["tls"]
	if cfg.TLSConfig == "" && !to.near() {
		cfg.TLSConfig = "preferred"
	}
	file := to.options["ca"]
	if file == "" {
		return nil
	}
	roots, err := authorities(file)
	if err != nil {
		return err
	}
	cfg.TLSConfig = ""
	cfg.TLS = &tls.Config{RootCAs: roots, ServerName: to.host, MinVersion: tls.VersionTLS12}
	return nil
}

func (d *maria) check(ctx context.Context, db *sql.DB) (version string, warnings []string, err error) {
	var (
		flush, binlog, syncBinlog int
		packet                    int64
	)
	if err := db.QueryRowContext(ctx, `SELECT VERSION()`).Scan(&version); err != nil {
		return "", nil, err
	}
	number, system, _ := strings.Cut(version, "-")
	var major, minor int
	if _, err := fmt.Sscanf(number, "%d.%d", &major, &minor); err != nil || !strings.Contains(system, "MariaDB") {
		return "", nil, signalbox.Errorf(signalbox.KindInvalid, "store_server", "the server at %s is no MariaDB (its version is %q); MariaDB %d.%d or later is needed",
			d.e.to.address, version, mariaOldestMajor, mariaOldestMinor)
	}
	if major < mariaOldestMajor || major == mariaOldestMajor && minor < mariaOldestMinor {
		return "", nil, signalbox.Errorf(signalbox.KindInvalid, "store_server", "the server at %s is MariaDB %s; %d.%d or later is needed",
			d.e.to.address, number, mariaOldestMajor, mariaOldestMinor)
	}
	err = db.QueryRowContext(ctx, `SELECT @@global.innodb_flush_log_at_trx_commit, @@global.log_bin, @@global.sync_binlog, @@session.max_allowed_packet`).
		Scan(&flush, &binlog, &syncBinlog, &packet)
	if err != nil {
		return "", nil, err
	}
	if need := int64(d.e.s.cfg.MaxValue) + packetSlack; packet < need {
		return "", nil, signalbox.Errorf(signalbox.KindInvalid, "store_server",
			"the server at %s takes packets of %d bytes (max_allowed_packet); at least %d are needed", d.e.to.address, packet, need)
	}
	if flush != 1 {
		warnings = append(warnings, fmt.Sprintf("innodb_flush_log_at_trx_commit is %d; it must be 1", flush))
	}
	if binlog != 0 && syncBinlog != 1 {
		warnings = append(warnings, fmt.Sprintf("sync_binlog is %d while the binary log is on; it must be 1", syncBinlog))
	}
	return "MariaDB " + number, warnings, nil
}

// migrations makes goose's own table, which goose would make in two steps without a way back
// from between them.
func (d *maria) migrations(ctx context.Context, db *sql.DB) (goose.Dialect, words, error) {
	err := makeVersions(ctx, db, `id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, version_id BIGINT NOT NULL, is_applied BOOLEAN NOT NULL,
		tstamp DATETIME NULL DEFAULT CURRENT_TIMESTAMP`)
	const table = "ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin"
	return goose.DialectMySQL, words{
		ID: "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY", Int: "BIGINT", Name: "VARCHAR(255)", Text: "MEDIUMTEXT", Hash: "VARBINARY(64)", Blob: "LONGBLOB",
		Table: table, KeyTable: table, IfExists: "IF EXISTS", IfNotExists: "IF NOT EXISTS",
	}, err
}

// begin: in a session without autocommit the first statement begins the transaction.
func (d *maria) begin(ctx context.Context, from, to string) (bool, error) {
	stmt, err := d.e.s.prepare(ctx, `UPDATE meta SET value = ? WHERE name = ? AND value = ?`) //nolint:sqlclosecheck // kept; the store closes it
	if err != nil {
		return false, err
	}
	res, err := stmt.ExecContext(ctx, to, markName, from)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

func (d *maria) lock(ctx context.Context, c *sql.Conn) (bool, error) {
	var got, holder, own sql.NullInt64
	if err := c.QueryRowContext(ctx, `SELECT GET_LOCK(`+mariaLock+`, 0)`).Scan(&got); err != nil {
		return false, err
	}
	if got.Int64 == 1 {
		if err := c.QueryRowContext(ctx, `SELECT GET_LOCK(`+mariaOwn+`, 1)`, d.e.token).Scan(&got); err != nil {
			return false, err
		}
		_, err := c.ExecContext(ctx, `SET autocommit = 0`)
		return err == nil, err
	}
	if err := c.QueryRowContext(ctx, `SELECT IS_USED_LOCK(`+mariaLock+`), IS_USED_LOCK(`+mariaOwn+`)`, d.e.token).Scan(&holder, &own); err != nil {
		return false, err
	}
	if holder.Valid && holder == own {
		_, err := c.ExecContext(ctx, fmt.Sprintf(`KILL CONNECTION %d`, holder.Int64))
		if fault, ok := errors.AsType[*mysql.MySQLError](err); ok && fault.Number == 1094 {
			err = nil // it has ended
		}
		return false, err
	}
	return false, nil
}

func (d *maria) explain(err error) error {
	if errors.Is(err, mysql.ErrInvalidConn) {
		return signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", err, "the database server at %s cannot be reached (the connection was lost, or it did not answer in time)", d.e.to.address)
	}
	if errors.Is(err, mysql.ErrNoTLS) {
		return noTLS(err, d.e.to)
	}
	if errors.Is(err, mysql.ErrPktTooLarge) {
		return tooLarge(err)
	}
	fault, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return nil
	}
	if fault.Number == 1105 && strings.Contains(fault.Message, "max_allowed_packet") { // said without a number of its own
		return tooLarge(err)
	}
	switch fault.Number {
	case 1062, 1022, 1242: // duplicate entry, key; the guard of an upsert
		return duplicate(err)
	case 1153, 1301: // packet too large
		return tooLarge(err)
	case 1264, 1292, 1366, 1406: // out of range, no such date, not this character set, too long
		return valueRefused(err)
	case 1021, 1114: // disk full, table full
		return signalbox.Wrap(signalbox.KindUnavailable, "disk_full", err, "the disk of the database server at %s is full", d.e.to.address)
	case 1044, 1045, 1049, 1142, 1143, 1227, 1370, 1698: // access denied, unknown database
		return refused(err, d.e.to)
	case 3, 5, 126, 127, 134, 144, 145, 1023, 1024, 1026, 1028, 1030, 1034, 1035, 1037, 1038, 1041, 194, 1877, 1712, // files, memory, broken tables
		1040, 1129, 1130, 1203, 1226, // connections
		1043, 1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2006, 2013, // communication, shutdown, killed
		1205, 1213, 1206, 1317, 1836, 1290, 1792, 1969, 3024, 4031: // locks, interruption, read only, time
		return signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", err, "the database server at %s cannot do it now", d.e.to.address)
	default:
		return err // what was asked for is wrong, and stays so
	}
}

func tooLarge(err error) error {
	return signalbox.Wrap(signalbox.KindTooLarge, "value_too_large", err, "a value is larger than the database server takes")
}

// valueRefused is the error of a value that a column does not take, today or later.
func valueRefused(err error) error {
	return signalbox.Wrap(signalbox.KindInvalid, "value_refused", err, "the database does not take a value")
}

func refused(err error, to target) error {
	return signalbox.Wrap(signalbox.KindUnavailable, "store_refused", err, "the server at %s does not let %s use the database %s (%s)",
		to.address, to.user, to.database, strings.TrimSpace(err.Error()))
}
