from apps.text_to_image import main

if __name__ == "__main__":
    main()
