# SPDX-License-Identifier: Apache-2.0
"""The page of --web and the file of --explore in headless Chromium, driven as a person would: with mouse,
keyboard and eyes (screenshots).

Screenshots are kept in the folder that STENTOR_SCREENSHOTS names, else in pytest's temporary folder.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from common import ROOT
from test_sample_views import save_model

pytestmark = pytest.mark.slow
CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A working folder with two runs, and one that will be deleted."""
    folder = tmp_path_factory.mktemp("page")
    for seed, name in enumerate(("one", "two", "doomed")):
        save_model(folder / "runs" / name / "best", 2, seed)
        (folder / "runs" / name / "run.json").write_text("{}")
    return folder


@pytest.fixture()
def open_browser(tmp_path):
    """A function that opens a browser of its own; `dark` asks for dark pages."""
    if not CHROMIUM or not DRIVER:
        pytest.skip(
            "chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)"
        )
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium drives the browser: pip install selenium"
    )
    opened = []

    def browser(dark: bool = False, width: int = 1100):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--window-size={width},1000",
        ):
            options.add_argument(argument)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        opened.append(driver)
        if dark:
            driver.execute_cdp_cmd(
                "Emulation.setEmulatedMedia",
                {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
            )
        return driver

    yield browser
    for driver in opened:
        driver.quit()


def wait(condition, seconds: float = 300):
    """What `condition()` gives once it is true; elements that the page replaces meanwhile are asked for
    again.
    """
    from selenium.common.exceptions import WebDriverException
    end = time.monotonic() + seconds
    while True:
        try:
            found = condition()
        except WebDriverException:
            found = None
        if found:
            return found
        assert time.monotonic() < end, "the page did not get there in time"
        time.sleep(0.1)


def text_of(driver, selector: str) -> str:
    """The text of the first element."""
    return driver.find_element("css selector", selector).text


def picture(driver, name: str, tmp_path: Path) -> None:
    """A screenshot; it must not be blank."""
    folder = Path(os.environ.get("STENTOR_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(folder / f"{name}.png"))
    assert (folder / f"{name}.png").stat().st_size > 10_000


def phone(driver) -> None:
    """Make the window 390 pixels wide, as a phone shows it."""
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def foreign_requests(driver) -> list[str]:
    """What the browser asked of anything but this machine, and what the pages' policy or scripts complained
    about.
    """
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert urls
    severe = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    return [
        url
        for url in urls
        if not url.startswith(("http://127.0.0.1", "http://localhost", "data:", "blob:", "file:", "about:"))
    ] + severe


# ---------------------------------------------------------------------------------------- --explore FILE.html

def contrast(driver, selector: str) -> float:
    """WCAG 2 contrast of an element's text with its background."""
    return driver.execute_script(
        """
      const style = getComputedStyle(document.querySelector(arguments[0]));
      const light = colour => colour.match(/[0-9.]+/g).slice(0, 3).map(c => c / 255)
        .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
      const [a, b] = [light(style.color), light(style.backgroundColor)].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);""",
        selector,
    )


@pytest.mark.parametrize("dark", [False, True])
def test_explorer_file(work, open_browser, tmp_path, dark):
    subprocess.run(
        [
            sys.executable,
            str(ROOT / "sample.py"),
            "runs/one",
            "Hello there",
            "--explore",
            "page.html",
            "--max-new-tokens",
            "60",
            "--seed",
            "1",
        ],
        cwd=work,
        check=True,
        capture_output=True,
    )
    from selenium.webdriver import ActionChains, Keys
    driver = open_browser(dark)
    driver.get((work / "page.html").as_uri())
    buttons = driver.find_elements("css selector", "#text button")
    data = json.loads(driver.execute_script("return document.getElementById('data').textContent"))
    assert len(buttons) == len(data) >= 1 and len(driver.find_elements("css selector", "#panel tr")) == 8
    ActionChains(driver).move_to_element(buttons[5]).perform()
    assert f"token 6 of {len(data)}" in text_of(driver, "#panel") and data[5][3][0][1] in text_of(
        driver, "#panel tr"
    )
    ActionChains(driver).move_to_element(driver.find_element("tag name", "h1")).perform()
    assert "token 1 of" in text_of(driver, "#panel")
    driver.find_element("tag name", "body").send_keys(Keys.TAB)          # to the choice of colours
    driver.switch_to.active_element.send_keys(Keys.TAB)                  # to the tokens
    for keys, place in (
        (Keys.ARROW_RIGHT * 3, 4),
        (Keys.ARROW_LEFT, 3),
        (Keys.END, len(data)),
        (Keys.HOME, 1),
    ):
        driver.switch_to.active_element.send_keys(keys)
        assert f"token {place} of" in text_of(driver, "#panel")
    buttons[2].click()
    assert "token 3 of" in text_of(driver, "#panel") and "entropy" in text_of(driver, "#panel")
    for scale in ("surprise", "probability"):
        driver.find_element("css selector", f"[name=by][value={scale}]").click()
        for name in {button.get_attribute(f"data-{scale}") for button in buttons}:
            assert contrast(driver, f"#text button[data-{scale}={name}]") > 4.5
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    picture(driver, f"explore-{'dark' if dark else 'light'}", tmp_path)
    assert foreign_requests(driver) == []


def test_explorer_file_on_a_small_screen(work, open_browser, tmp_path):
    subprocess.run(
        [
            sys.executable,
            str(ROOT / "sample.py"),
            "runs/one",
            "word " * 40,
            "--explore",
            "small.html",
            "--max-new-tokens",
            "80",
        ],
        cwd=work,
        check=True,
        capture_output=True,
    )
    driver = open_browser()
    phone(driver)
    driver.get((work / "small.html").as_uri())
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    style = "return getComputedStyle(document.getElementById('panel')).position"
    assert driver.execute_script(style) == "static"
    buttons = driver.find_elements("css selector", "#text button")
    buttons[9].click()                                           # the panel opens below the token
    assert f"token 10 of {len(buttons)}" in text_of(driver, "#text #panel")
    picture(driver, "explore-small", tmp_path)


# ------------------------------------------------------------------------------------------------------ --web

@pytest.fixture(scope="module")
def address(work):
    """The page, served by the command itself."""
    pytest.importorskip("gradio", reason="the page is made with gradio: pip install '.[web]'")
    if not CHROMIUM or not DRIVER:
        pytest.skip(
            "chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)"
        )
    log = open(work / "server.log", "w+")
    server = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "sample.py"), "runs/one", "Hello there", "--web"],
        cwd=work,
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    try:
        line = wait(
            lambda: [line for line in (work / "server.log").read_text().splitlines() if "http://" in line],
            120,
        )[0]
        yield line.split()[-1]
    finally:
        server.terminate()
        server.wait(30)


def tab(driver, name: str) -> None:
    """Go to a tab."""
    wait(
        lambda: [
            button
            for button in driver.find_elements("css selector", "button[role=tab]")
            if button.text == name
        ]
    )[0].click()


def write(driver, selector: str, text: str) -> None:
    """Put text into a field."""
    field = wait(lambda: driver.find_element("css selector", f"{selector} textarea"))
    wait(lambda: field.is_displayed())
    field.clear()
    field.send_keys(text)


def click(driver, selector: str) -> None:
    wait(lambda: driver.find_element("css selector", selector).is_displayed())
    driver.find_element("css selector", selector).click()


def choose_model(driver, name: str) -> None:
    """Pick a model from the list."""
    wait(lambda: driver.find_element("css selector", "#model input")).click()
    wait(
        lambda: [
            option for option in driver.find_elements("css selector", "[role=option]") if name in option.text
        ]
    )[0].click()


def test_page_listens_here_only(address):
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address) as answer:
        assert "connect-src 'self'" in answer.headers["content-security-policy"]
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    listening = {
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text(encoding="utf-8").splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    }
    assert listening == {f"0100007F:{port:04X}"}


def test_every_view_of_the_page(address, open_browser, tmp_path):
    driver = open_browser()
    driver.get(address)
    click(driver, "button#generate")
    wait(lambda: "tokens/s" in text_of(driver, "#generate-status"))
    wait(lambda: "Hello there" in text_of(driver, "#generate-output"))
    picture(driver, "generate", tmp_path)
    tab(driver, "Explorer")
    click(driver, "button#explore")
    frame = wait(lambda: driver.find_element("css selector", "iframe.explorer"))
    driver.switch_to.frame(frame)
    buttons = wait(lambda: driver.find_elements("css selector", "#text button"))
    driver.execute_script("arguments[0].scrollIntoView({block: 'start'})", buttons[-1])
    buttons[-1].click()
    assert f"token {len(buttons)} of {len(buttons)}" in text_of(driver, "#panel")
    driver.switch_to.default_content()
    picture(driver, "explorer", tmp_path)
    tab(driver, "Sweep")
    click(driver, "button#sweep")
    wait(
        lambda: (
            len(driver.find_elements("css selector", "#sweep-output .answer")) == 3
            and "same seed" in text_of(driver, "#sweep-output")
        )
    )
    picture(driver, "sweep", tmp_path)
    tab(driver, "Arena")
    wait(lambda: [label for label in driver.find_elements("css selector", "label") if label.text == "blind"])[
        0
    ].click()
    click(driver, "button#arena")
    vote = wait(
        lambda: [button for button in driver.find_elements("tag name", "button") if button.text == "tie"]
    )[0]
    assert [title.text for title in driver.find_elements("css selector", "#arena-output h4")] == ["A", "B"]
    picture(driver, "arena", tmp_path)
    vote.click()
    wait(lambda: "A was" in text_of(driver, "#arena-result"))
    tab(driver, "Chat")
    write(driver, "#chat-prompt", "Hello\n")
    wait(lambda: len(driver.find_elements("css selector", "[data-testid=bot]")) == 1)
    picture(driver, "chat", tmp_path)
    assert foreign_requests(driver) == []


def test_page_in_the_dark(address, open_browser, tmp_path):
    driver = open_browser(dark=True)
    driver.get(address)
    click(driver, "button#generate")
    wait(lambda: "tokens/s" in text_of(driver, "#generate-status"))
    picture(driver, "generate-dark", tmp_path)


def test_the_history_fits_a_phone(address, open_browser):
    driver = open_browser()
    phone(driver)
    driver.get(address)
    click(driver, "button#generate")
    wait(lambda: "tokens/s" in text_of(driver, "#generate-status"))
    buttons = driver.find_elements("css selector", "button")
    next(button for button in buttons if "History" in button.text).click()
    wait(lambda: "Hello there" in text_of(driver, "#history") and "seed" in text_of(driver, "#history h4"))
    assert driver.execute_script(
        "return document.querySelector('#history section').getBoundingClientRect().right <= innerWidth")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_reaches_every_tab_and_the_explorer_has_the_pages_theme(address, open_browser, dark):
    driver = open_browser(dark=dark)
    phone(driver)
    driver.get(address)
    for name in ("Generate", "Sweep", "Arena", "Chat", "Explorer"):
        tab(driver, name)
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth"), name
    click(driver, "button#explore")
    driver.switch_to.frame(wait(lambda: driver.find_element("css selector", "iframe.explorer")))
    paper = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(22, 24, 26)" if dark else "rgb(253, 253, 252)")


def test_the_seed_is_new_each_time_also_with_the_settings_open(address, open_browser):
    driver = open_browser()
    driver.get(address)
    buttons = driver.find_elements
    wait(lambda: [one for one in buttons("tag name", "button") if "Settings" in one.text])[0].click()
    wait(lambda: driver.find_element("css selector", "#seed").is_displayed())
    seeds = [""]

    def another_seed() -> str:
        """Clicks are ignored while an answer is being written, so this one is repeated until it counts."""
        click(driver, "button#generate")
        found = text_of(driver, "#generate-output h4")
        return "" if found in seeds else found

    for _ in range(2):
        seeds.append(wait(another_seed))
    assert "seed 0" not in seeds


def test_mistakes_are_lines_on_the_page(address, open_browser, work, tmp_path):
    driver = open_browser()
    driver.get(address)
    write(driver, "#generate-prompt", " ")
    click(driver, "button#generate")
    wait(lambda: "prompt is empty" in text_of(driver, "#generate-status"))
    field = driver.find_element("css selector", "#generate-prompt textarea")
    driver.execute_script(
        "arguments[0].value = 'word '.repeat(3000); arguments[0].dispatchEvent(new Event('input'))", field
    )
    click(driver, "button#generate")
    wait(lambda: "at most 1024" in text_of(driver, "#generate-status"))
    write(driver, "#generate-prompt", "Hello")
    choose_model(driver, "doomed")
    shutil.rmtree(work / "runs" / "doomed")
    click(driver, "button#generate")
    wait(lambda: "runs/doomed: no such run" in text_of(driver, "#generate-status"))
    picture(driver, "mistake", tmp_path)


def test_two_people_at_once(address, open_browser):
    one, two = open_browser(), open_browser()
    for driver, word in ((one, "Apples"), (two, "Pears")):
        driver.get(address)
        write(driver, "#generate-prompt", word)
    for driver in (one, two):
        click(driver, "button#generate")
    for driver, word, other in ((one, "Apples", "Pears"), (two, "Pears", "Apples")):
        wait(
            lambda: (
                "tokens/s" in text_of(driver, "#generate-status")
                and word in text_of(driver, "#generate-output")
            )
        )
        assert other not in driver.find_element("tag name", "body").get_attribute("innerText")
