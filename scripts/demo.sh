#!/usr/bin/env bash
# An answer from the model in this package, with its denoising; then a batch as JSON and as a page for the browser.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
use_environment ""

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
page="${JAXDLM_DEMO_PAGE:-demo.html}"
mapfile -t questions < <(python -m jaxdlm examples)

echo
echo "A question that the model has not seen in training, answered several tokens per forward:"
echo
echo "    ${questions[0]}"
echo
python -m jaxdlm generate "${questions[0]}" --policy threshold --watch

echo
echo "Three more, as JSON; their denoising is in $page:"
echo
printf '%s\n' "${questions[@]:1:3}" | python -m jaxdlm generate - --policy threshold,tau=0.9 --json --html "$page"

echo
echo "Next: source ${VIRTUAL_ENV}/bin/activate, then jaxdlm examples, jaxdlm policies, or open $page in a browser."
