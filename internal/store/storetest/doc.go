// Package storetest runs tests on each database that package store knows: SQLite, MariaDB
// and PostgreSQL. It is for tests alone.
//
// The servers are real ones, from Debian's packages mariadb-server-core and postgresql, and
// private: with data in a temporary directory, on a port of 127.0.0.1 and a Unix socket of
// their own, as the user nobody when the tests run as root. Each runs one of each for a
// test binary, started when first needed, with a database of its own for every test; Start
// gives a test a server that it may stop and pause. A server that cannot be started fails
// the test.
//
// A package that uses it has
//
//	func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }
//
// which stops the servers; should the test binary die, the system stops them. A package
// whose tests know a store by its directory can have all of them run three times, with
// MainEach and Config.
//
// The servers are set up unlike their defaults where a store must not care: another time
// zone, another order and another set of characters, a lax SQL mode, and a PostgreSQL that
// does not write at once unless told. They do not wait for the disk, see Durable.
package storetest
