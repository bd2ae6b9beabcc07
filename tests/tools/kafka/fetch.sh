#!/bin/sh
# Fetches the jars of a real Apache Kafka broker with Maven into .build/kafka/jars, once; prints that folder.
# Exit 3: Java or Maven is missing, so the tests that need the broker are skipped.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH= cd -- "$here/../../.." && pwd)
cache=${WEIR_KAFKA_CACHE:-$root/.build/kafka}
stamp=$(cksum "$here/pom.xml" | cut -d' ' -f1)
if [ -f "$cache/$stamp.complete" ]; then
    echo "$cache/jars"
    exit 0
fi
for tool in java mvn; do
    command -v "$tool" >/dev/null 2>&1 || { echo "fetch.sh: no \`$tool\` on this machine" >&2; exit 3; }
done
mkdir -p "$cache"
# Into a folder of our own first: two fetches at once must not see each other's half.
part="$cache/jars.$$"
trap 'rm -rf "$part"' EXIT
mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$part" -DincludeScope=runtime >&2
if [ ! -f "$cache/$stamp.complete" ]; then
    rm -rf "$cache/jars"
    mv "$part" "$cache/jars"
    touch "$cache/$stamp.complete"
fi
echo "$cache/jars"
