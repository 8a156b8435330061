package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"

	"lighter/store"
)

// Time limits of the server.
const (
	headerTime   = 10 * time.Second
	idleTime     = 2 * time.Minute
	writeTime    = time.Minute // for each writeChunk
	shutdownTime = 10 * time.Second
)

const (
	writeChunk = 4 << 20 // bytes
	maxHeader  = 16 << 10
	// maxRequests is how many requests are answered at a time; each is a descriptor of a
	// file beside that of its connection.
	maxRequests = 1024
)

// Serve answers on a listener with what is in a folder until ctx ends; answers under way
// have some seconds then. It closes the listener.
func Serve(ctx context.Context, l net.Listener, folder string, logger *slog.Logger) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		l.Close()
		return err
	}
	defer root.Close()
	s := &http.Server{
		Handler:           Handler(root, logger),
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       headerTime, // requests have no body
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		err := s.Shutdown(grace)
		if errors.Is(err, context.DeadlineExceeded) {
			err = s.Close()
		}
		stopped <- err
	})
	err = s.Serve(l)
	if stop() {
		return err // it ended by itself
	}
	return <-stopped
}

// Handler answers GET and HEAD for the files of a published folder, and for nothing else
// that may be in it: no folder is listed. It is for files that do not change once they have
// their names, other than by being replaced.
func Handler(root *os.Root, logger *slog.Logger) http.Handler {
	h := &handler{root: root, places: make(chan struct{}, maxRequests)}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		answer := &answer{ResponseWriter: w, control: http.NewResponseController(w), status: http.StatusOK}
		h.serve(answer, r)
		logger.Debug("request", "method", r.Method, "path", r.URL.Path, "status", answer.status,
			"bytes", answer.bytes, "time", time.Since(start), "client", r.RemoteAddr)
	})
}

type handler struct {
	root   *os.Root
	places chan struct{} // holds one for each request that is being answered
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request) {
	select {
	case h.places <- struct{}{}:
		defer func() { <-h.places }()
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests are being answered", http.StatusServiceUnavailable)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are answered", http.StatusMethodNotAllowed)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	file, kind := resource(name)
	if file == "" {
		http.NotFound(w, r)
		return
	}
	f, info, err := openRegular(h.root, file)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()))
	if strings.HasPrefix(name, "log/") {
		serveLog(w, r, f, info)
		return
	}
	http.ServeContent(w, r, "", info.ModTime(), f)
}

// errNotAFile is about a folder, a FIFO, a socket or a device.
var errNotAFile = errors.New("it is not a file")

// openRegular opens a file to be read. It never waits: to open a FIFO would, and for
// each request that a thread does.
func openRegular(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", name, errNotAFile)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// resource returns the file behind a URL's path, and its type. The file is empty where
// nothing of the kind is served.
func resource(name string) (file, kind string) {
	const text = "text/plain; charset=utf-8"
	switch dir, base := path.Split(name); {
	case name == "nix-cache-info" || name == keyName:
		return name, text
	case dir == "" && strings.HasSuffix(base, ".narinfo"):
		return name, "application/x-nix-narinfo; charset=utf-8"
	case dir == "failures/" && base != "":
		return name, "application/json"
	case dir == "log/" && isItem(base):
		return name + ".gz", text
	case (dir == "nar/" || dir == "nar/zstd/" || dir == "nar/gzip/") && isItem(base):
		return name, "application/x-nix-archive"
	}
	return "", ""
}

func isItem(base string) bool {
	_, err := store.DefaultDir.Path(base)
	return err == nil
}

// serveLog sends a log, which is compressed, as it is if the client can take that.
func serveLog(w http.ResponseWriter, r *http.Request, f *os.File, info fs.FileInfo) {
	w.Header().Set("Vary", "Accept-Encoding")
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Length", fmt.Sprint(info.Size()))
		r.Header.Del("Range") // of what, the log or the file?
		http.ServeContent(w, r, "", info.ModTime(), f)
		return
	}
	w.Header().Del("ETag") // which is that of the other form
	z, err := gzip.NewReader(f)
	if err != nil {
		http.Error(w, "the log cannot be read", http.StatusInternalServerError)
		return
	}
	if r.Method == http.MethodGet {
		_, _ = io.Copy(w, z) // whom should one tell?
	}
}

// answer notes what was answered, and gives a client that reads only so much time.
type answer struct {
	http.ResponseWriter
	control *http.ResponseController
	status  int
	bytes   int64
}

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	a.extend()
	n, err := a.ResponseWriter.Write(p)
	a.bytes += int64(n)
	return n, err
}

// ReadFrom lets the kernel send files by itself, a piece at a time.
func (a *answer) ReadFrom(r io.Reader) (total int64, err error) {
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		return io.Copy(struct{ io.Writer }{a}, r)
	}
	for limited.N > 0 {
		a.extend()
		want := min(limited.N, writeChunk)
		n, err := io.Copy(a.ResponseWriter, io.LimitReader(limited.R, want))
		total += n
		limited.N -= n
		a.bytes += n
		if err != nil || n < want {
			return total, err
		}
	}
	return total, nil
}

// extend gives the client more time. A writer that knows no time limits has none.
func (a *answer) extend() { _ = a.control.SetWriteDeadline(time.Now().Add(writeTime)) }
