package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"lighter/internal/stream"
	"lighter/nar"
	"lighter/store"
)

var (
	_ store.Substitutee = (*Store)(nil)
	_ store.Downloader  = (*Store)(nil)
)

// maxFlatItem is how large a file may be, in bytes, that is held in memory to see whether
// its name follows from its contents.
const maxFlatItem = 64 << 20

// AddSubstitute implements store.Substitutee. From any client guix-daemon takes items that are
// named after their contents: derivations and other texts, and files and folders added by
// their SHA-256. Outputs of builds it takes only from its own substitution: see Download.
func (s *Store) AddSubstitute(ctx context.Context, info *store.Info, contents io.Reader) error {
	err := s.check(append(slices.Clone(info.References), info.Path)...)
	if err == nil {
		err = s.addSubstitute(ctx, info, stream.ReaderUntil(ctx, contents))
	}
	if err != nil {
		return fmt.Errorf("add %s: %w", info.Path, err)
	}
	return nil
}

func (s *Store) addSubstitute(ctx context.Context, info *store.Info, contents io.Reader) error {
	source, err := s.dir.SourcePath(info.Path.Name(), info.NARHash)
	if err != nil {
		return err
	}
	if source == info.Path && len(info.References) == 0 {
		got, err := s.addNAR(ctx, info.Path.Name(), contents)
		if err == nil && got != info.Path {
			err = fmt.Errorf("%w: its contents give the name %s", store.ErrCorrupt, got)
		}
		return err
	}
	text, err := flatContents(info, contents)
	if err != nil {
		return err
	}
	name, err := s.dir.TextPath(info.Path.Name(), text, info.References)
	if err != nil {
		return err
	}
	if name == info.Path {
		_, err := s.AddText(ctx, info.Path.Name(), text, info.References)
		return err
	}
	if info.Path.IsDerivation() {
		return fmt.Errorf("%w: its contents give the name %s", store.ErrCorrupt, name)
	}
	digest := sha256.Sum256(text)
	if flat, err := s.dir.FixedOutputPath(info.Path.Name(), false, "sha256", digest[:]); err != nil || flat != info.Path || len(info.References) > 0 {
		return errors.Join(err, errNotByContents)
	}
	return s.addFlat(ctx, info.Path, text)
}

var errNotByContents = fmt.Errorf("guix-daemon takes it from no client, since its name does not follow from its contents: %w", errors.ErrUnsupported)

// flatContents returns the contents of an item that is one plain file.
func flatContents(info *store.Info, contents io.Reader) ([]byte, error) {
	var hash nar.Hasher
	r := nar.NewReader(io.TeeReader(contents, &hash))
	h, err := r.Next()
	if err != nil {
		return nil, err
	}
	if h.Kind != nar.Regular || h.Executable || h.Size > maxFlatItem {
		return nil, errNotByContents
	}
	text := make([]byte, h.Size)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, err
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, store.ErrCorrupt)
	}
	if hash.Sum() != info.NARHash {
		return nil, fmt.Errorf("%w: its NAR has hash %s, not %s", store.ErrCorrupt, hash.Sum(), info.NARHash)
	}
	return text, nil
}

// addFlat adds a file under the SHA-256 of its contents. guix-daemon still gets it as a NAR.
func (s *Store) addFlat(ctx context.Context, path store.Path, content []byte) error {
	return s.do(ctx, func(c *conn) error {
		c.rooted = true
		c.op(opAddToStore)
		_ = c.w.String(path.Name()) // errors stay until Flush
		_ = c.w.Uint64(1)           // was once a parameter
		_ = c.w.Bool(false)         // recursive
		_ = c.w.String("sha256")
		out := nar.NewWriter(c.w)
		_ = out.WriteHeader(&nar.Header{Kind: nar.Regular, Size: int64(len(content))})
		_, _ = out.Write(content)
		if err := out.Close(); err != nil {
			return err
		}
		if err := c.call(nil); err != nil {
			return err
		}
		return s.wantPath(c, path)
	})
}

// Download implements store.Downloader with guix-daemon's substitution. Its ACL decides whose
// signatures count. A daemon that was started with --no-substitutes does it for nobody.
func (s *Store) Download(ctx context.Context, path store.Path, urls []string) error {
	for _, u := range urls {
		if u == "" || strings.ContainsAny(u, " \t\n\x00") {
			return fmt.Errorf("download %s: %q is not a URL", path, u)
		}
	}
	pairs := []string{"multiplexed-build-output", "true"}
	if len(urls) > 0 {
		pairs = append(pairs, "substitute-urls", strings.Join(urls, " "))
	}
	options := encodeOptions(false, false, true, pairs)
	err := s.check(path)
	if err == nil {
		err = s.with(ctx, forBuild, options, func(c *conn) error {
			if err := c.setOptions(options); err != nil {
				return err
			}
			c.rooted = true
			c.op(opEnsurePath)
			c.putPath(path)
			if err := c.call(nil); err != nil {
				return err
			}
			return c.getDone()
		})
	}
	if err != nil {
		return fmt.Errorf("download %s: %w", path, err)
	}
	return nil
}
