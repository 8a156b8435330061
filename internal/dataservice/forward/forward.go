// Package forward brings the data service that a coordinator has on its socket to a network: it passes what is asked
// there, and nothing else, with bounds on who asks.
package forward

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"time"
)

// path is where the coordinator's socket has the data service.
const path = "/v1/data-service"

const (
	headerTime   = 10 * time.Second // for a request's header
	answerTime   = 6 * time.Minute  // for an answer, until its reader has taken all of it
	firstTime    = time.Minute      // until the coordinator begins to answer
	idleTime     = 2 * time.Minute
	shutdownTime = 5 * time.Second
	maxHeader    = 32 << 10 // bytes
	maxAtOnce    = 64       // requests; more are refused
)

// Handler passes requests on to a coordinator, which dial reaches. A nil logger is none.
func Handler(dial func(context.Context) (net.Conn, error), logger *slog.Logger) http.Handler {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "coordinator"
			if r.Out.URL.RawPath != "" {
				r.Out.URL.RawPath = path + r.Out.URL.RawPath
			}
			r.Out.URL.Path = path + r.Out.URL.Path
			r.Out.Header = make(http.Header) // nothing that was said here counts there
			for _, name := range []string{"Accept", "If-None-Match"} {
				if value := r.In.Header.Get(name); value != "" {
					r.Out.Header.Set(name, value)
				}
			}
			r.Out.Body, r.Out.ContentLength = http.NoBody, 0
		},
		Transport: &http.Transport{
			DialContext:           func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			ResponseHeaderTimeout: firstTime, IdleConnTimeout: idleTime, MaxIdleConnsPerHost: 8, DisableCompression: true,
		},
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				logger.Warn("the coordinator does not answer", "err", err)
			}
			refuse(w, http.StatusBadGateway, "the coordinator does not answer")
		},
	}
	turns := make(chan struct{}, maxAtOnce)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			refuse(w, http.StatusMethodNotAllowed, "this service is only read")
			return
		}
		if slices.Contains(strings.Split(r.URL.Path, "/"), "..") { // it would lead elsewhere
			refuse(w, http.StatusNotFound, "this service has no such page")
			return
		}
		select {
		case turns <- struct{}{}:
			defer func() { <-turns }()
		default:
			w.Header().Set("Retry-After", "5")
			refuse(w, http.StatusServiceUnavailable, "too many ask at the same time")
			return
		}
		proxy.ServeHTTP(w, r)
	})
}

// refuse answers with an error, a text that needs no quoting.
func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(`{"error":"` + text + `"}` + "\n"))
}

// Serve answers on a listener until ctx ends, and closes it.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTime, ReadTimeout: headerTime, WriteTimeout: answerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
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
	return err
}
