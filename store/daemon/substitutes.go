package daemon

import (
	"context"
	"errors"
	"fmt"

	"lighter/store"
)

// Substitute has the daemon download those of the paths that the servers have, and what they
// refer to. It returns the ones that are valid afterwards, also with an error, which is
// about the others; what no server has is not an error. The daemon takes what is signed by a
// key of its ACL.
func (s *Store) Substitute(ctx context.Context, urls []string, paths []store.Path) ([]store.Path, error) {
	err := s.check(paths...)
	if err == nil && len(paths) > 0 {
		o := substituteOptions(urls)
		err = s.with(ctx, forBuild, o, func(c *conn) error {
			if err := c.addTempRoots(paths); err != nil {
				return err
			}
			if err := c.setOptions(o); err != nil {
				return err
			}
			c.op(opBuildThings)
			c.putPaths(paths)
			_ = c.w.Uint64(modeNormal) // the error comes with call
			if err := c.call(nil); err != nil {
				return err
			}
			return c.getDone()
		})
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	fetched, asked := s.ValidPaths(ctx, paths)
	if err = errors.Join(err, asked); err != nil {
		err = fmt.Errorf("substitute %d items: %w", len(paths), err)
	}
	return fetched, err
}
