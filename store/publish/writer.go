// Package publish makes a folder from which Guix substitutes, with the layout of guix
// publish, so that any web server for static files can serve it, or [Handler]:
//
//	nix-cache-info            which store this is for
//	signing-key.pub           the key that signed the narinfos, for guix archive --authorize
//	HASH.narinfo              what an item is, signed
//	nar/zstd/HASH-NAME        its NAR; nar/gzip/HASH-NAME, nar/HASH-NAME if not compressed
//	log/HASH-NAME.drv.gz      the log of a build; served as log/HASH-NAME.drv
//	failures/HASH             a build of the derivation with that hash that failed, as JSON
//
// A file is complete when it has its name, and an item's NAR is there before its narinfo.
// Several processes may write to one folder.
package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"lighter/internal/stream"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/narinfo"
)

// keyName is the file with the public key.
const keyName = "signing-key.pub"

// renewAfter is how old an item's file may be, when it is published again, without being
// touched, and how long a Writer believes that an item is there. Much less than leastPrune.
const renewAfter = 10 * time.Minute

// maxSeen is how many items a Writer knows to be there.
const maxSeen = 100_000

// Source is a store from which items are published.
type Source interface {
	store.Store
	store.NARWriter
}

// Options are what a Writer is made with. FS and Key must be set.
type Options struct {
	FS  FS
	Key *signature.PrivateKey // signs the narinfos
	// Dir is the store directory of all items; /gnu/store if empty.
	Dir store.Dir
	// Host is named in signatures, for people. Empty: this computer's.
	Host string

	Compression string // narinfo.Zstd, Gzip or None; Zstd if empty
	Level       int    // 1 to 22 for zstd, 1 to 9 for gzip; 0 is the method's default
	Parallel    int    // items that are written at a time; 0 is 4

	Logger *slog.Logger // nil is slog.Default()
}

// Writer publishes. It may be used from several goroutines.
type Writer struct {
	opts     Options
	fs       FS
	encoders sync.Pool     // of *zstd.Encoder
	places   chan struct{} // holds one for each item that is being written

	mu      sync.Mutex // owns what follows
	started bool
	flights map[store.Path]chan struct{} // items under way; closed when they are done
	// seen has when items were found or made, so that of a closure that is there already
	// a folder on another host is not asked item by item for each build.
	seen map[store.Path]time.Time
}

// New returns a Writer. Nothing is written yet; the error is about the options.
func New(opts Options) (*Writer, error) {
	if opts.FS == nil || opts.Key == nil {
		return nil, errors.New("publish: want a folder and a key")
	}
	opts.Dir = cmp.Or(opts.Dir, store.DefaultDir)
	opts.Compression = cmp.Or(opts.Compression, narinfo.Zstd)
	opts.Parallel = cmp.Or(opts.Parallel, 4)
	opts.Logger = cmp.Or(opts.Logger, slog.Default())
	if opts.Host == "" {
		opts.Host, _ = os.Hostname() // for people: it may be empty
	}
	if err := checkLevel(opts.Compression, opts.Level); err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	return &Writer{
		opts: opts, fs: opts.FS,
		places:  make(chan struct{}, opts.Parallel),
		flights: make(map[store.Path]chan struct{}),
		seen:    make(map[store.Path]time.Time),
	}, nil
}

func checkLevel(compression string, level int) error {
	most := map[string]int{narinfo.Zstd: 22, narinfo.Gzip: gzip.BestCompression, narinfo.None: 0}
	top, ok := most[compression]
	switch {
	case !ok:
		return fmt.Errorf("compression %q: want zstd, gzip or none", compression)
	case level < 0 || level > top:
		return fmt.Errorf("compression level %d: %s has levels up to %d", level, compression, top)
	}
	return nil
}

// String says where the folder is.
func (w *Writer) String() string { return w.fs.String() }

// start writes what a folder has once. Another Writer may do so at the same time.
func (w *Writer) start(ctx context.Context) error {
	w.mu.Lock()
	started := w.started
	w.mu.Unlock()
	if started {
		return nil
	}
	text, err := w.fs.Read(ctx, narinfo.CacheInfoName, 4<<10)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		info := narinfo.CacheInfo{StoreDir: w.opts.Dir, WantMassQuery: true, Priority: 100}
		err = w.put(ctx, narinfo.CacheInfoName, []byte(info.String()))
	case err == nil:
		err = w.checkFolder(text)
	}
	if err == nil {
		err = w.put(ctx, keyName, []byte(w.opts.Key.Public().String()))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", w.fs, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.started = true
	return nil
}

// checkFolder refuses a folder with the items of another store.
func (w *Writer) checkFolder(text []byte) error {
	info, err := narinfo.ParseCacheInfo(text)
	if err == nil && info.StoreDir != w.opts.Dir {
		err = fmt.Errorf("it is for items of %s, not of %s", info.StoreDir, w.opts.Dir)
	}
	return err
}

func (w *Writer) put(ctx context.Context, name string, text []byte) error {
	return w.fs.Put(ctx, name, func(out io.Writer) error {
		_, err := out.Write(text)
		return err
	})
}

// Publish publishes items of a store, references first. What is there already is not
// written again, but counts as published now. It returns the items that it has written,
// also beside an error.
func (w *Writer) Publish(ctx context.Context, from store.NARWriter, infos ...*store.Info) ([]store.Path, error) {
	sorted, err := store.SortInfos(infos)
	if err == nil {
		err = w.start(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	var written []store.Path
	for _, info := range sorted {
		fresh, err := w.item(ctx, from, info)
		if err != nil {
			return written, fmt.Errorf("publish %s in %s: %w", info.Path, w.fs, err)
		}
		if fresh {
			written = append(written, info.Path)
		}
	}
	return written, nil
}

// PublishPaths publishes items by name, and with closure also what they refer to. They are
// protected from garbage collection meanwhile, if the store can do that.
func (w *Writer) PublishPaths(ctx context.Context, from Source, closure bool, paths ...store.Path) ([]store.Path, error) {
	if leaser, ok := from.(store.Leaser); ok {
		lease, err := leaser.Lease(ctx, "publish")
		if err != nil {
			return nil, fmt.Errorf("publish: %w", err)
		}
		defer lease.Release() //nolint:errcheck // a lease that stays ends with the store
		// A lease of an item protects what it refers to.
		if err := lease.Add(ctx, paths...); err != nil {
			return nil, fmt.Errorf("publish: %w", err)
		}
	}
	infos, err := infosOf(ctx, from, closure, paths)
	if err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	return w.Publish(ctx, from, infos...)
}

func infosOf(ctx context.Context, from store.Store, closure bool, paths []store.Path) ([]*store.Info, error) {
	if closure {
		return store.Closure(ctx, from, paths)
	}
	infos, err := store.Infos(ctx, from, paths)
	if err != nil {
		return nil, err
	}
	for i, info := range infos {
		if info == nil {
			return nil, store.NotValid(paths[i])
		}
	}
	return infos, nil
}

// Published reports whether an item is in the folder.
// What this Writer has found or made lately it does not look for.
func (w *Writer) Published(ctx context.Context, path store.Path) (bool, error) {
	w.mu.Lock()
	seen := time.Since(w.seen[path]) < renewAfter
	w.mu.Unlock()
	if seen {
		return true, nil
	}
	_, err := w.fs.Stat(ctx, narinfo.Name(path))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// item publishes one item, unless it is there, or is being published already: then it
// waits. It reports whether it has written it.
func (w *Writer) item(ctx context.Context, from store.NARWriter, info *store.Info) (bool, error) {
	for {
		w.mu.Lock()
		if time.Since(w.seen[info.Path]) < renewAfter {
			w.mu.Unlock()
			return false, nil
		}
		other := w.flights[info.Path]
		if other == nil {
			own := make(chan struct{})
			w.flights[info.Path] = own
			w.mu.Unlock()
			fresh, err := w.writeItem(ctx, from, info)
			w.mu.Lock()
			delete(w.flights, info.Path)
			if err == nil {
				w.sawLocked(info.Path)
			}
			w.mu.Unlock()
			close(own)
			return fresh, err
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-other:
		}
	}
}

// sawLocked notes that an item is there.
func (w *Writer) sawLocked(path store.Path) {
	if len(w.seen) >= maxSeen {
		clear(w.seen)
	}
	w.seen[path] = time.Now()
}

// forget ends what is believed to be there.
func (w *Writer) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.seen)
}

func (w *Writer) writeItem(ctx context.Context, from store.NARWriter, info *store.Info) (bool, error) {
	found, err := w.fs.Stat(ctx, narinfo.Name(info.Path))
	switch {
	case err == nil && time.Since(found.ModTime()) < renewAfter:
		return false, nil
	case err == nil:
		err = w.fs.Touch(ctx, narinfo.Name(info.Path))
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		} // else it was pruned just now
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	select {
	case w.places <- struct{}{}:
		defer func() { <-w.places }()
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	name := w.narName(info.Path)
	size, err := w.writeNAR(ctx, from, info, name)
	if err != nil {
		return false, err
	}
	text, err := narinfo.Sign(w.opts.Key, w.opts.Host, info, []narinfo.Download{
		{URL: (&url.URL{Path: name}).EscapedPath(), Compression: w.opts.Compression, FileSize: size},
	})
	if err == nil {
		err = w.put(ctx, narinfo.Name(info.Path), text)
	}
	if err != nil {
		return false, err
	}
	w.opts.Logger.Debug("published", "item", string(info.Path), "bytes", size, "in", w.fs.String())
	return true, nil
}

// narName returns the file of an item's NAR.
func (w *Writer) narName(path store.Path) string {
	if w.opts.Compression == narinfo.None {
		return "nar/" + path.Base()
	}
	return "nar/" + w.opts.Compression + "/" + path.Base()
}

// writeNAR writes an item's NAR and returns the size of the file. Contents that have not the
// hash that the store knows get no name.
func (w *Writer) writeNAR(ctx context.Context, from store.NARWriter, info *store.Info, name string) (int64, error) {
	var size int64
	err := w.fs.Put(ctx, name, func(out io.Writer) error {
		counted := &stream.Counter{W: out}
		z, end, err := w.compress(counted)
		if err != nil {
			return err
		}
		var hash nar.Hasher
		err = from.WriteNAR(ctx, io.MultiWriter(z, &hash), info.Path)
		if endErr := end(); err == nil {
			err = endErr
		}
		if err != nil {
			return err
		}
		if got := hash.Sum(); got != info.NARHash || hash.Size() != info.NARSize {
			return fmt.Errorf("%w: its NAR has %d bytes and hash %s, not %d bytes and %s",
				store.ErrCorrupt, hash.Size(), got, info.NARSize, info.NARHash)
		}
		size = counted.N
		return nil
	})
	return size, err
}

// compress returns a writer that compresses to out, and what ends it.
func (w *Writer) compress(out io.Writer) (io.Writer, func() error, error) {
	switch w.opts.Compression {
	case narinfo.None:
		return out, func() error { return nil }, nil
	case narinfo.Gzip:
		level := w.opts.Level
		level = cmp.Or(level, gzip.DefaultCompression)
		z, err := gzip.NewWriterLevel(out, level)
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	z, ok := w.encoders.Get().(*zstd.Encoder)
	if !ok {
		level := w.opts.Level
		level = cmp.Or(level, 3)
		var err error
		if z, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level))); err != nil {
			return nil, nil, err
		}
	}
	z.Reset(out)
	return z, func() error {
		err := z.Close()
		z.Reset(nil)
		w.encoders.Put(z)
		return err
	}, nil
}
