// Package api is the HTTP door for people and programs: the API under /api/v1, its
// description at /openapi.json, /openapi.yaml and /docs, /metrics, /healthz and /readyz.
//
// # Who may call
//
// A Gate decides. A person has the cookie «signalbox_session», made by a login; a program
// sends «Authorization: Bearer» with a token. With a Bearer header the cookie is not
// looked at. Requests that passed through Local (the hub's own Unix socket, or a call
// inside the process) are the admin «local». Each operation needs a scope: read for
// looking, command for commands, admin for changes of devices, people and tokens.
// /healthz and /readyz are open; where others are, and what went wrong with them, /readyz tells
// callers on the same machine and those who may read (Check.Detail). The documents and /metrics are open to callers on the
// same machine and, where configured, to all. Unsafe requests of another origin's page
// are refused (net/http.CrossOriginProtection) unless they carry a Bearer header, which
// no foreign page can make a browser send.
//
// # Errors
//
// Every error is an RFC 9457 problem document with the further members code (a stable
// word), request_id (for faults of the hub) and errors (what is wrong with which part of
// the input). Kinds become statuses in one place, statusOf. What huma itself refuses is
// turned into the same document by a transformer of this API, with status 400 instead of
// huma's 422; huma's package-wide NewError stays as it is. Nothing of a query is ignored: a
// parameter that the operation does not know, is given twice or has no allowed value is
// refused before the handler is asked (checkQuery).
//
// # Promises
//
// A 2xx answer to a change comes after the change is on disk. An import happens whole, in
// one transaction, or not at all. Bodies are bounded (Config.MaxBody, Config.MaxImport),
// pages too (of history also in bytes, PageBytes, and CSV in columns, MaxColumns), waits end
// after 60 s, and for the disk after command.CommitPatience. A listener of the stream has its own queue of
// streamQueue entries; what does not fit is not sent and counted in an event «lagged».
// The answers over many devices (scans and exports) are sent as they are read, share one bound
// of memory (Config.ReadMemory), and are refused when it is used up; one that cannot be finished
// is broken off, so that it does not look whole. They end
// when their reader goes away, as does every other question about the past.
// Streams and waits end when Config.Stopping is closed, so that a server can be shut down
// in order. Handlers keep nothing and may run in any number.
package api
