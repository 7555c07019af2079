package hypervtest

import "errors"

func openVHD(path string) (file, error) { return nil, errors.ErrUnsupported }

func createChildVHD(path, parent, parentName string) error { return errors.ErrUnsupported }

func (d *drive) rebaseVHD(child, parent *node) error { return errors.ErrUnsupported }
