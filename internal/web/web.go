// Package web is the page of the farm: what "lighter web" serves. It is a client of the coordinator
// like every other, and may run without rights of its own.
//
// A page is an entry of the table of [Server.pages]: a path, a template, and a function that returns the
// page's model. The model is what the page's JSON twin is, so its fields have the names and docstrings of
// an API. Everything from builds and machines is escaped by html/template, and what could mislead a
// reader without being markup, such as control characters, is made visible on the way out.
//
// What many ask at the same time is asked of the coordinator once: statuses and whole answers are good
// for a second, and events are read by one feed for all.
package web

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"lighter/internal/api/apiclient"
	"lighter/internal/web/feed"
)

// Options are those of New.
type Options struct {
	Client *apiclient.Client // of the coordinator
	Logger *slog.Logger      // nil logs nothing
	Title  string            // of the farm, on every page; empty is "lighter"
	Now    func() time.Time  // nil is time.Now
	// Steering lets people who log in act from the pages; nil has pages only show.
	Steering *Steering
}

// Server answers with the pages.
type Server struct {
	client *apiclient.Client
	log    *slog.Logger
	title  string
	now    func() time.Time
	feed   *feed.Feed
	farm   *statuses
	past   *histories
	asks   chan struct{} // places of what is asked of the coordinator
	places chan struct{} // of pages that are being answered
	bodies *answers
	logs   logIndexes

	logStreams chan struct{} // places of logs that are being sent

	steering *steering // nil if pages only show
}

// maxAsks is how many requests to the coordinator are under way at a time. It answers as many of one
// user within the memory that it has for that.
const maxAsks = 16

// maxPages is how many pages are answered at a time.
const maxPages = 512

// New returns a server. [Server.Run] reads the events that it passes on.
func New(o Options) *Server {
	s := &Server{
		client: o.Client, log: o.Logger, title: o.Title, now: o.Now,
		asks: make(chan struct{}, maxAsks), places: make(chan struct{}, maxPages), bodies: newAnswers(),
		logStreams: make(chan struct{}, maxLogStreams),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.title == "" {
		s.title = "lighter"
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.feed = feed.New(o.Client, s.log)
	s.farm, s.past = newStatuses(s), newHistories(s)
	if o.Steering != nil {
		s.steering = newSteering(s, o.Steering)
	}
	return s
}

// Run reads events until the context ends.
func (s *Server) Run(ctx context.Context) { s.feed.Run(ctx) }

// Handler answers requests for pages, as docs/web.md describes them.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, p := range s.pages() {
		t := pageTemplate(p.template)
		mux.HandleFunc("GET "+p.path, func(w http.ResponseWriter, r *http.Request) { s.servePage(w, r, &p, t) })
	}
	mux.Handle("GET /static/", staticFiles())
	mux.Handle("GET /events", s.feed)
	mux.HandleFunc("GET /build/{id}/log", s.serveLog)
	mux.HandleFunc("GET /metrics", s.serveMetrics)
	mux.HandleFunc("GET /feed.atom", s.serveAtom)
	mux.HandleFunc("GET /badge/package/{file}", s.serveBadge(s.packageBadge))
	mux.HandleFunc("GET /badge/tag/{file...}", s.serveBadge(s.tagBadge))
	mux.HandleFunc("GET /robots.txt", serveRobots)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, notFound("there is no page %s", r.URL.Path))
	})
	if s.steering == nil {
		return secured(jsonTwins(mux))
	}
	s.steering.routes(mux)
	return secured(s.steering.handler(jsonTwins(mux)))
}

// pages is the table of pages. "{$}" is the end of a path.
func (s *Server) pages() []page {
	return []page{
		{path: "/{$}", template: "index", load: s.loadIndex},
		{path: "/activity", template: "activity", load: s.loadActivity},
		{path: "/builds", template: "builds", load: s.loadBuilds},
		{path: "/blocking", template: "blocking", load: s.loadBlocking},
		{path: "/submission/{name...}", template: "submission", load: s.loadSubmission},
		{path: "/tag/{tag...}", template: "submission", load: s.loadTag},
		{path: "/history", template: "history", load: s.loadHistory},
		{path: "/machine/{name}", template: "machine", load: s.loadMachine},
		{path: "/build/{id}", template: "build", load: s.loadBuild},
		{path: "/build/{id}/log.html", template: "log", load: s.loadLog},
	}
}

// Time limits of the server.
const (
	headerTime   = 10 * time.Second
	bodyTime     = 30 * time.Second // bodies are small
	idleTime     = 2 * time.Minute
	shutdownTime = 5 * time.Second
	maxHeader    = 32 << 10 // bytes
)

// Serve answers on a listener until the context ends, and closes it.
func Serve(ctx context.Context, l net.Listener, s *Server) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: headerTime, ReadTimeout: bodyTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx }, // streams end with it
	}
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		s.Run(ctx)
	}()
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, done := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer done()
		err := server.Shutdown(grace)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
		stopped <- err
	})
	err := server.Serve(l)
	if !stop() {
		err = <-stopped
	}
	cancel()
	<-reading
	return err
}
