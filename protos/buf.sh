#!/usr/bin/env bash
# buf lint, and buf breaking against main. usage: protos/buf.sh VERSION
set -euo pipefail
cd "$(dirname "$0")/.."
buf=.buf/node_modules/.bin/buf
if ! command -v npm >/dev/null; then
  echo "buf lint and buf breaking: SKIPPED, npm is not on the PATH"
  exit 0
fi
[ -x "$buf" ] || npm install --silent --no-fund --no-audit --no-package-lock --prefix .buf "@bufbuild/buf@$1"
"$buf" lint --path protos/convlens
echo "buf lint: passed"
main=$(git rev-parse --verify --quiet origin/main || git rev-parse --verify --quiet main || true)
if [ -z "$main" ] || ! git cat-file -e "$main:protos/convlens" 2>/dev/null; then
  echo "buf breaking: SKIPPED, there is no main to compare with"
  exit 0
fi
rm -rf .buf/main && mkdir -p .buf/main/.buf
git archive "$main" protos | tar -x -C .buf/main
cp buf.yaml .buf/main/ && cp -R .buf/googleapis .buf/main/.buf/
"$buf" breaking --against .buf/main
echo "buf breaking: passed against ${main:0:12}"
